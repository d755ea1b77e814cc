"""Linear warm-up, then a straight line to the floor: the best of the simple decays in short runs."""

from __future__ import annotations

import functools

from pydantic import Field

from lehr.base.durations import Duration, DurationSetting, RunLength
from lehr.schedules.schedule import Schedule, ScheduleSettings, warmup_factor, warmup_steps

__all__ = ["WarmupLinear", "warmup_linear"]


def warmup_linear(step: int, *, total: int, warmup: int = 0, floor: float = 0.0) -> float:
    """Return ``(step+1)/warmup`` during warm-up, then ``1 - (1-floor) t``.

    ``t = (step - warmup) / (total - warmup)`` runs from 0 to 1; past ``total`` the factor stays at ``floor``.

    >>> [round(warmup_linear(step, total=6, warmup=2), 2) for step in range(7)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if step < warmup:
        return warmup_factor(step, warmup)
    if step >= total:
        return floor
    return 1 - (1 - floor) * (step - warmup) / (total - warmup)


class WarmupLinear(ScheduleSettings):
    """Settings of `warmup_linear`."""

    warmup: DurationSetting = Duration(5, "%")
    """Linear warm-up: steps, '5%' of the run or '1 epoch'."""
    floor: float = Field(default=0.0, ge=0, lt=1)
    """The last factor, as a share of the base rate."""

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        warmup = warmup_steps(self.warmup, steps=steps, run=run)
        return functools.partial(warmup_linear, total=steps, warmup=warmup, floor=self.floor)
