"""Step decay: the rate falls to a share of itself after every so many steps."""

from __future__ import annotations

import functools

from pydantic import Field

from lehr.base.durations import Duration, DurationSetting, RunLength
from lehr.schedules.schedule import Held, Schedule, ScheduleSettings, count

__all__ = ["StepDecay", "step_decay"]


def step_decay(step: int, *, every: int, gamma: float = 0.1) -> float:
    """Return ``gamma ** floor(step / every)``: torch's ``StepLR``.

    Without the floor it would be a smooth exponential, which is `exponential`.

    >>> [round(step_decay(step, every=30), 3) for step in (0, 29, 30, 59, 60)]
    [1.0, 1.0, 0.1, 0.1, 0.01]
    """
    return gamma ** (step // every)


class StepDecay(ScheduleSettings):
    """Settings of `step_decay`."""

    every: DurationSetting = Duration(30, "%")
    """After how long the rate falls: '30 epochs', '30%' of the run or steps."""
    gamma: float = Field(default=0.1, gt=0, le=1)
    """What it is multiplied by."""

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        every = count("every", self.every, run)
        return Held(functools.partial(step_decay, every=every, gamma=self.gamma), steps)
