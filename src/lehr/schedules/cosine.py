"""Cosine annealing: half a period of a cosine, from the base rate to the floor."""

from __future__ import annotations

import functools
import math

from pydantic import Field

from lehr.base.durations import RunLength
from lehr.schedules.schedule import Schedule, ScheduleSettings

__all__ = ["Cosine", "cosine"]


def cosine(step: int, *, total: int, floor: float = 0.0) -> float:
    """Return ``floor + (1 - floor) (1 + cos(pi step / total)) / 2``, and ``floor`` from ``total`` on.

    Source: Loshchilov and Hutter 2017 (arXiv 1608.03983), without restarts; torch's ``CosineAnnealingLR``, which rises
    again after ``total``.

    >>> [round(cosine(step, total=4, floor=0.1), 3) for step in range(6)]
    [1.0, 0.868, 0.55, 0.232, 0.1, 0.1]
    """
    if step >= total:
        return floor
    return floor + (1 - floor) * (1 + math.cos(math.pi * step / total)) / 2


class Cosine(ScheduleSettings):
    """Settings of `cosine`."""

    floor: float = Field(default=0.0, ge=0, lt=1)
    """The last factor, as a share of the base rate."""

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        return functools.partial(cosine, total=steps, floor=self.floor)
