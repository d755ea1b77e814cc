"""Exponential decay."""

from __future__ import annotations

import functools
import math

from pydantic import Field

from lehr.base.durations import Duration, DurationSetting, RunLength
from lehr.base.errors import SettingError
from lehr.schedules.schedule import Held, Schedule, ScheduleSettings

__all__ = ["Exponential", "exponential"]


def exponential(step: int, *, gamma: float = 0.95, every: float = 1.0) -> float:
    """Return ``gamma ** (step / every)``: torch's ``ExponentialLR``, smooth between its steps.

    The same as ``exp(-k step / every)`` with the decay constant ``k = -ln(gamma)``; the rate is halved after
    ``every * ln(2) / k`` steps.

    >>> round(exponential(10), 4), exponential(20, gamma=0.5, every=10)
    (0.5987, 0.25)
    """
    return math.pow(gamma, step / every)


class Exponential(ScheduleSettings):
    """Settings of `exponential`."""

    gamma: float = Field(default=0.95, gt=0, le=1)
    """What the rate is multiplied by in the course of `every`."""
    every: DurationSetting = Duration(1, "%")
    """The time that `gamma` is meant for: '1 epoch', '1%' of the run, 1 step; a fraction of a step is fine."""

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        every = self.every.exact_steps(run)
        if every == 0:
            raise SettingError(f"every={self.every} is no time; give 1 step, '1 epoch' or '1%'")
        return Held(functools.partial(exponential, gamma=self.gamma, every=every), steps)
