"""The constant rate."""

from __future__ import annotations

import functools

from lehr.base.durations import Duration, DurationSetting, RunLength
from lehr.schedules.schedule import Schedule, ScheduleSettings, warmup_factor, warmup_steps

__all__ = ["Constant", "constant"]


def constant(step: int, *, warmup: int = 0) -> float:
    """Return 1 after a linear warm-up of ``warmup`` steps.

    >>> constant(1000), constant(0, warmup=4)
    (1.0, 0.25)
    """
    return warmup_factor(step, warmup)


class Constant(ScheduleSettings):
    """Settings of `constant`."""

    warmup: DurationSetting = Duration(0)
    """Linear warm-up: steps, '5%' of the run or '1 epoch'."""

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        warmup = warmup_steps(self.warmup, steps=steps, run=run)
        return functools.partial(constant, warmup=warmup)
