"""Polynomial decay."""

from __future__ import annotations

import functools

from pydantic import Field

from lehr.base.durations import RunLength
from lehr.schedules.schedule import Schedule, ScheduleSettings

__all__ = ["Polynomial", "polynomial"]


def polynomial(step: int, *, total: int, power: float = 2.0, floor: float = 0.0) -> float:
    """Return ``floor + (1 - floor) (1 - step / total) ** power``, and ``floor`` from ``total`` on.

    With ``floor=0`` torch's ``PolynomialLR``; with ``power=1`` a straight line. Used so for segmentation with power
    0.9 (Chen et al. 2016, arXiv 1606.00915).

    >>> [polynomial(step, total=4) for step in range(5)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0]
    """
    return floor if step >= total else floor + (1 - floor) * (1 - step / total) ** power


class Polynomial(ScheduleSettings):
    """Settings of `polynomial`."""

    power: float = Field(default=2.0, gt=0)
    """The exponent: above 1 falls fast at first, below 1 at the end."""
    floor: float = Field(default=0.0, ge=0, lt=1)
    """The last factor, as a share of the base rate."""

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        return functools.partial(polynomial, total=steps, power=self.power, floor=self.floor)
