"""Warm-up, then the inverse square root of the step."""

from __future__ import annotations

import functools
import math

from lehr.base.durations import Duration, DurationSetting, RunLength
from lehr.schedules.schedule import Held, Schedule, ScheduleSettings, warmup_steps

__all__ = ["InverseSqrt", "inverse_sqrt"]


def inverse_sqrt(step: int, *, warmup: int) -> float:
    """Return ``min(n / W, sqrt(W / n))`` with ``n = step + 1``: 1 at the end of the warm-up of W updates.

    It has no end, so it fits runs whose length is not known. A warm-up of 0 or 1 is none. Source: the shape of Vaswani
    et al. 2017 (arXiv 1706.03762), with the base rate as its peak.

    >>> [round(inverse_sqrt(step, warmup=4), 3) for step in (0, 3, 8, 15, 399)]
    [0.25, 1.0, 0.667, 0.5, 0.1]
    """
    n, warmup = step + 1, max(1, warmup)
    return min(n / warmup, math.sqrt(warmup / n))


class InverseSqrt(ScheduleSettings):
    """Settings of `inverse_sqrt`."""

    warmup: DurationSetting = Duration(5, "%")
    """Linear warm-up, and the scale of the decay: steps, '5%' of the run or '1 epoch'."""

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        warmup = warmup_steps(self.warmup, steps=steps, run=run)
        return Held(functools.partial(inverse_sqrt, warmup=warmup), steps)
