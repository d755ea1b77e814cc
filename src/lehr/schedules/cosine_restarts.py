"""Cosine annealing with warm restarts (SGDR)."""

from __future__ import annotations

import functools

from pydantic import Field

from lehr.base.durations import Duration, DurationSetting, RunLength
from lehr.schedules.cosine import cosine
from lehr.schedules.schedule import Held, Schedule, ScheduleSettings, count

__all__ = ["CosineRestarts", "cosine_restarts"]


def cosine_restarts(
    step: int, *, period: int, period_mult: int = 1, floor: float = 0.0, peak_decay: float = 1.0
) -> float:
    """Return a cosine from the peak to ``floor`` over ``period`` steps, again and again.

    Cycle i (from 0) lasts ``period * period_mult ** i`` steps and begins at ``floor + (1 - floor) peak_decay ** i``.
    Source: Loshchilov and Hutter 2017 (arXiv 1608.03983); torch's ``CosineAnnealingWarmRestarts`` with T_0 =
    ``period``, T_mult = ``period_mult``, which has no decay of the peaks.

    >>> [round(cosine_restarts(step, period=2, period_mult=2), 3) for step in range(7)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """
    cycle = 0
    if period_mult == 1:
        cycle, step = divmod(step, period)
    while step >= period:
        cycle, step, period = cycle + 1, step - period, period * period_mult
    return floor + (1 - floor) * peak_decay**cycle * cosine(step, total=period)


class CosineRestarts(ScheduleSettings):
    """Settings of `cosine_restarts`."""

    period: DurationSetting = Duration(25, "%")
    """Length of the first cycle, T_0: '25%' of the run, '10 epochs' or steps."""
    period_mult: int = Field(default=1, ge=1)
    """By what each cycle is longer than the one before, T_mult."""
    floor: float = Field(default=0.0, ge=0, lt=1)
    """The lowest factor, as a share of the base rate."""
    peak_decay: float = Field(default=1.0, gt=0, le=1)
    """By what each restart's height above the floor is smaller than the one before."""

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        schedule = functools.partial(
            cosine_restarts,
            period=count("period", self.period, run),
            period_mult=self.period_mult,
            floor=self.floor,
            peak_decay=self.peak_decay,
        )
        return Held(schedule, steps)
