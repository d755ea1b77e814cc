"""Warm-up, stable, decay: three phases."""

from __future__ import annotations

import functools
import math
from typing import Literal

from pydantic import Field

from lehr.base.durations import Duration, DurationSetting, RunLength
from lehr.base.errors import SettingError
from lehr.schedules.schedule import (
    Schedule,
    ScheduleSettings,
    nearest,
    too_long,
    warmup_factor,
    warmup_steps,
)

__all__ = ["WSD", "Decay", "wsd"]

Decay = Literal["linear", "cosine", "1-sqrt"]


def wsd(step: int, *, total: int, warmup: int = 0, decay: int = 0, floor: float = 0.0, form: Decay = "linear") -> float:
    """Return ``(step+1)/warmup``, then 1, then over the last ``decay`` updates a fall to ``floor``.

    With t from 0 to 1 over the decay, the fall above the floor is ``1 - t``, ``(1 + cos(pi t)) / 2`` or
    ``1 - sqrt(t)``. Without a decay it stays at 1. Source: Hu et al. 2024 (arXiv 2404.06395); the forms: Hägele et al.
    2024 (arXiv 2405.18392).

    >>> [round(wsd(step, total=10, warmup=2, decay=4, form="1-sqrt"), 2) for step in (0, 1, 5, 6, 7, 9, 10)]
    [0.5, 1.0, 1.0, 1.0, 0.5, 0.13, 0.0]
    """
    begin = total - decay
    if step < begin or decay == 0:
        return warmup_factor(step, warmup)
    t = min(1.0, (step - begin) / decay)
    fall = {"linear": 1 - t, "cosine": (1 + math.cos(math.pi * t)) / 2, "1-sqrt": 1 - math.sqrt(t)}[form]
    return floor + (1 - floor) * fall


class WSD(ScheduleSettings):
    """Settings of `wsd`."""

    warmup: DurationSetting = Duration(5, "%")
    """Linear warm-up: steps, '5%' of the run or '1 epoch'."""
    decay: DurationSetting = Duration(20, "%")
    """Length of the fall at the end: steps, '20%' of the run or '1 epoch'."""
    form: Decay = "linear"
    """Form of the fall: linear, cosine or 1-sqrt."""
    floor: float = Field(default=0.0, ge=0, lt=1)
    """The last factor, as a share of the base rate."""

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        warmup, fall = warmup_steps(self.warmup, steps=steps, run=run), self.decay.exact_steps(run)
        if too_long(self.warmup.exact_steps(run) + fall, steps):
            raise SettingError(
                f"warmup={self.warmup} and decay={self.decay} are {warmup} + {nearest(fall)} steps, but there are "
                f"{steps}; make one of them shorter"
            )
        decay = steps - max(warmup, nearest(steps - fall))  # where both fill the run, neither rounds into the other
        return functools.partial(wsd, total=steps, warmup=warmup, decay=decay, floor=self.floor, form=self.form)
