"""The one-cycle policy: up to a high peak, then far down, with the momentum moving the other way."""

from __future__ import annotations

import functools
import math
from typing import Literal

from pydantic import Field, model_validator

from lehr.base.durations import RunLength
from lehr.base.errors import SettingError
from lehr.schedules.momentum import MomentumRange
from lehr.schedules.schedule import Schedule, ScheduleSettings

__all__ = ["Anneal", "OneCycle", "one_cycle", "one_cycle_momentum"]

Anneal = Literal["cos", "linear"]


def one_cycle(
    step: int,
    *,
    total: int,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    anneal: Anneal = "cos",
    three_phase: bool = False,
) -> float:
    """Return the rate as a share of the peak: torch's ``OneCycleLR`` with max_lr as the base rate.

    It begins at ``1 / div_factor``, is 1 at step ``pct_start * total - 1`` and ends, at step ``total - 1``, at
    ``1 / (div_factor * final_div_factor)``. With three phases it comes down as slowly as it rose before the last fall.
    Source: Smith and Topin 2018 (arXiv 1708.07120).

    >>> [round(one_cycle(step, total=10, pct_start=0.5), 4) for step in (0, 2, 4, 7)]
    [0.04, 0.52, 1.0, 0.3455]
    >>> 0.1 * one_cycle(9, total=10)  # the guide expects 1e-5
    4e-07
    """
    first = 1 / div_factor
    heights = (first, 1.0, first, first / final_div_factor) if three_phase else (first, 1.0, first / final_div_factor)
    return _walk(step, _ends(total, pct_start, three_phase), heights, anneal)


def one_cycle_momentum(
    step: int,
    *,
    total: int,
    between: tuple[float, float] = (0.85, 0.95),
    pct_start: float = 0.3,
    anneal: Anneal = "cos",
    three_phase: bool = False,
) -> float:
    """Return the momentum of the same cycle: high where the rate is low, low where it is high.

    >>> [round(one_cycle_momentum(step, total=10, pct_start=0.5), 3) for step in (0, 2, 4, 9)]
    [0.95, 0.9, 0.85, 0.95]
    """
    low, high = between
    heights = (high, low, high, high) if three_phase else (high, low, high)
    return _walk(step, _ends(total, pct_start, three_phase), heights, anneal)


def _ends(total: int, pct_start: float, three_phase: bool) -> tuple[float, ...]:
    """Return the steps at which the phases end; they may lie between two updates."""
    rise = pct_start * total - 1
    return (rise, 2 * pct_start * total - 2, total - 1) if three_phase else (rise, total - 1)


def _walk(step: int, ends: tuple[float, ...], heights: tuple[float, ...], anneal: Anneal) -> float:
    """Return the height at ``step`` on the way from one height to the next."""
    begin = 0.0
    for end, low, high in zip(ends, heights, heights[1:], strict=False):
        if step <= end:
            share = (step - begin) / (end - begin) if end > begin else 1.0
            if anneal == "linear":
                return low + (high - low) * share
            return high + (low - high) * (1 + math.cos(math.pi * share)) / 2
        begin = end
    return heights[-1]


class OneCycle(ScheduleSettings):
    """Settings of `one_cycle`. The base rate is the peak."""

    pct_start: float = Field(default=0.3, gt=0, lt=1)
    """Share of the cycle that the rise takes."""
    div_factor: float = Field(default=25.0, ge=1)
    """The first factor is 1 / this."""
    final_div_factor: float = Field(default=1e4, ge=1)
    """The last factor is the first one / this."""
    anneal: Anneal = "cos"
    """Form of the rise and the fall: cos or linear."""
    three_phase: bool = False
    """Whether to come down to the first factor as slowly as it rose, and then to the last."""
    cycle_momentum: MomentumRange = None
    """The lowest and the highest momentum, such as [0.85, 0.95], to cycle against the rate."""

    @model_validator(mode="after")
    def _check(self) -> OneCycle:
        if self.three_phase and self.pct_start > 0.5:
            raise SettingError(
                f"pct_start={self.pct_start:g} leaves no room for a fall as long as the rise; use at most 0.5 with "
                "three_phase"
            )
        return self

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        return functools.partial(
            one_cycle,
            total=steps,
            pct_start=self.pct_start,
            div_factor=self.div_factor,
            final_div_factor=self.final_div_factor,
            anneal=self.anneal,
            three_phase=self.three_phase,
        )

    def momentum_over(self, steps: int, run: RunLength) -> Schedule | None:
        """Return the momentum over ``steps`` updates, if it is cycled."""
        if self.cycle_momentum is None:
            return None
        return functools.partial(
            one_cycle_momentum,
            total=steps,
            between=self.cycle_momentum,
            pct_start=self.pct_start,
            anneal=self.anneal,
            three_phase=self.three_phase,
        )

    @property
    def moves_momentum(self) -> bool:
        """Whether it cycles the momentum too."""
        return self.cycle_momentum is not None
