"""Decay at milestones."""

from __future__ import annotations

import bisect
import functools

from pydantic import Field

from lehr.base.durations import Duration, DurationSetting, RunLength
from lehr.base.errors import SettingError
from lehr.schedules.schedule import Held, Schedule, ScheduleSettings

__all__ = ["MultiStep", "multi_step"]


def multi_step(step: int, *, milestones: tuple[int, ...], gamma: float = 0.1) -> float:
    """Return ``gamma ** n``, where n milestones are at or before ``step``: torch's ``MultiStepLR``.

    >>> [round(multi_step(step, milestones=(50, 75, 90)), 3) for step in (49, 50, 75, 99)]
    [1.0, 0.1, 0.01, 0.001]
    """
    return gamma ** bisect.bisect_right(milestones, step)


class MultiStep(ScheduleSettings):
    """Settings of `multi_step`."""

    milestones: tuple[DurationSetting, ...] = Field(
        default=(Duration(50, "%"), Duration(75, "%"), Duration(90, "%")), min_length=1
    )
    """When the rate falls, counted from the schedule's beginning: ['50%', '75%'], ['30 epochs', '60 epochs']."""
    gamma: float = Field(default=0.1, gt=0, le=1)
    """What it is multiplied by each time."""

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        milestones = tuple(milestone.steps(run) for milestone in self.milestones)
        shown = ", ".join(map(str, milestones))
        if list(milestones) != sorted(milestones):
            raise SettingError(f"milestones are the steps {shown}, which are out of order; give them in rising order")
        if milestones[0] < 1 or milestones[-1] > steps:
            raise SettingError(f"milestones are the steps {shown}, but there are {steps}; use 1 to {steps}")
        return Held(functools.partial(multi_step, milestones=milestones, gamma=self.gamma), steps)
