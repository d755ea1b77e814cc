"""Cyclical rates: to and fro between two bounds."""

from __future__ import annotations

import functools
import math
from typing import Literal

from pydantic import Field, model_validator

from lehr.base.durations import Duration, DurationSetting, RunLength
from lehr.base.errors import SettingError
from lehr.schedules.momentum import MomentumRange
from lehr.schedules.schedule import Held, Schedule, ScheduleSettings, count

__all__ = ["Cyclic", "Mode", "cyclic", "cyclic_height"]

Mode = Literal["triangular", "triangular2", "exp_range", "sine"]


def cyclic(
    step: int, *, up: int, down: int, floor: float = 0.01, mode: Mode = "triangular", gamma: float = 1.0
) -> float:
    """Return ``floor + (1 - floor) * cyclic_height(step)``: torch's ``CyclicLR`` with max_lr as the base rate.

    >>> [round(cyclic(step, up=2, down=2, floor=0.5), 2) for step in range(6)]
    [0.5, 0.75, 1.0, 0.75, 0.5, 0.75]
    """
    return floor + (1 - floor) * cyclic_height(step, up=up, down=down, mode=mode, gamma=gamma)


def cyclic_height(step: int, *, up: int, down: int, mode: Mode = "triangular", gamma: float = 1.0) -> float:
    """Return where between the bounds, 0 to 1, the cycle is.

    - "triangular": straight up in ``up`` steps, straight down in ``down``
    - "triangular2": the same, half as high in each further cycle
    - "exp_range": times ``gamma ** step``
    - "sine": ``(1 - cos(pi h)) / 2`` of the triangle's height h, which is a sine around the middle when up = down

    Source: Smith 2017 (arXiv 1506.01186); the sine is the guide's ``η₀ + Δη sin(ωt)``, begun at its lowest point.

    >>> [cyclic_height(step, up=1, down=2, mode="triangular2") for step in range(6)]
    [0.0, 1.0, 0.5, 0.0, 0.5, 0.25]
    """
    cycle, within = divmod(step, up + down)
    height = within / up if within <= up else (up + down - within) / down
    if mode == "triangular2":
        return math.ldexp(height, -cycle)
    if mode == "exp_range":
        return height * gamma**step
    return (1 - math.cos(math.pi * height)) / 2 if mode == "sine" else height


class Cyclic(ScheduleSettings):
    """Settings of `cyclic`. The base rate is the upper bound."""

    floor: float = Field(default=0.01, ge=0, lt=1)
    """The lower bound, as a share of the base rate."""
    up: DurationSetting = Duration(10, "%")
    """Length of a rise: '10%' of the run, 2000 steps, '2 epochs'."""
    down: DurationSetting | None = None
    """Length of a fall; that of the rise if not given."""
    mode: Mode = "triangular"
    """Form of the cycles: triangular, triangular2, exp_range or sine."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """What exp_range multiplies the height by at each step."""
    cycle_momentum: MomentumRange = None
    """The lowest and the highest momentum, such as [0.8, 0.9], to cycle against the rate."""

    @model_validator(mode="after")
    def _check(self) -> Cyclic:
        if self.gamma != 1 and self.mode != "exp_range":
            raise SettingError(f"gamma={self.gamma:g} has no effect with mode={self.mode}; it is for mode=exp_range")
        return self

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        up, down = self._times(run)
        schedule = functools.partial(cyclic, up=up, down=down, floor=self.floor, mode=self.mode, gamma=self.gamma)
        return Held(schedule, steps)

    def momentum_over(self, steps: int, run: RunLength) -> Schedule | None:
        """Return the momentum over ``steps`` updates, if it is cycled."""
        if self.cycle_momentum is None:
            return None
        up, down = self._times(run)
        low, high = self.cycle_momentum
        height = functools.partial(cyclic_height, up=up, down=down, mode=self.mode, gamma=self.gamma)
        return Held(lambda step: high - (high - low) * height(step), steps)

    @property
    def moves_momentum(self) -> bool:
        """Whether it cycles the momentum too."""
        return self.cycle_momentum is not None

    def _times(self, run: RunLength) -> tuple[int, int]:
        up = count("up", self.up, run)
        return up, up if self.down is None else count("down", self.down, run)
