"""A straight line between two factors."""

from __future__ import annotations

import functools

from pydantic import Field

from lehr.base.durations import RunLength
from lehr.schedules.schedule import Schedule, ScheduleSettings

__all__ = ["Linear", "linear"]


def linear(step: int, *, total: int, start: float = 1.0, end: float = 0.0) -> float:
    """Return ``start + (end - start) step / total``, and ``end`` from ``total`` on: torch's ``LinearLR``.

    >>> [round(linear(step, total=5, start=0.1, end=1.0), 2) for step in (0, 1, 4, 5, 6)]
    [0.1, 0.28, 0.82, 1.0, 1.0]
    """
    return end if step >= total else start + (end - start) * step / total


class Linear(ScheduleSettings):
    """Settings of `linear`."""

    start: float = Field(default=1.0, ge=0)
    """The first factor."""
    end: float = Field(default=0.0, ge=0)
    """The last factor, which the step after the line has."""

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        return functools.partial(linear, total=steps, start=self.start, end=self.end)
