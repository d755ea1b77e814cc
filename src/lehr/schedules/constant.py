"""The constant rate."""

from __future__ import annotations

import functools

from lehr.base.durations import Duration, DurationSetting
from lehr.base.settings import Settings
from lehr.schedules.schedule import Schedule, warmup_factor, warmup_steps

__all__ = ["Constant", "constant"]


def constant(step: int, *, warmup: int = 0) -> float:
    """Return 1 after a linear warm-up of ``warmup`` steps.

    >>> constant(1000), constant(0, warmup=4)
    (1.0, 0.25)
    """
    return warmup_factor(step, warmup)


class Constant(Settings):
    """Settings of `constant`."""

    warmup: DurationSetting = Duration(0)
    """Linear warm-up: steps, '5%' of the run or '1 epoch'."""

    def resolve(self, *, total_steps: int, steps_per_epoch: int | None) -> Schedule:
        """Return the schedule for a run of ``total_steps`` updates."""
        warmup = warmup_steps(self.warmup, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        return functools.partial(constant, warmup=warmup)
