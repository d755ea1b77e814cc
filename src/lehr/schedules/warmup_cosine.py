"""Linear warm-up, then a cosine to the floor: the usual schedule of language models."""

from __future__ import annotations

import functools
import math

from pydantic import Field

from lehr.base.durations import Duration, DurationSetting, RunLength
from lehr.schedules.schedule import Schedule, ScheduleSettings, warmup_factor, warmup_steps

__all__ = ["WarmupCosine", "warmup_cosine"]


def warmup_cosine(step: int, *, total: int, warmup: int = 0, floor: float = 0.0) -> float:
    """Return ``(step+1)/warmup`` during warm-up, then ``floor + (1-floor)(1 + cos(pi t))/2``.

    ``t = (step - warmup) / (total - warmup)`` runs from 0 to 1; past ``total`` the factor stays at ``floor``.
    Source: Loshchilov and Hutter 2017 (arXiv 1608.03983), without restarts.

    >>> [round(warmup_cosine(step, total=6, warmup=2, floor=0.1), 3) for step in range(7)]
    [0.5, 1.0, 1.0, 0.868, 0.55, 0.232, 0.1]
    """
    if step < warmup:
        return warmup_factor(step, warmup)
    if step >= total:
        return floor
    progress = (step - warmup) / (total - warmup)
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


class WarmupCosine(ScheduleSettings):
    """Settings of `warmup_cosine`."""

    warmup: DurationSetting = Duration(5, "%")
    """Linear warm-up: steps, '5%' of the run or '1 epoch'."""
    floor: float = Field(default=0.0, ge=0, lt=1)
    """The last factor, as a share of the base rate."""

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        warmup = warmup_steps(self.warmup, steps=steps, run=run)
        return functools.partial(warmup_cosine, total=steps, warmup=warmup, floor=self.floor)
