"""Simulated annealing's geometric cooling, with the rate as the temperature."""

from __future__ import annotations

import functools
import math

from pydantic import Field, model_validator

from lehr.base.durations import Duration, DurationSetting, RunLength
from lehr.base.errors import SettingError
from lehr.schedules.schedule import Held, Schedule, ScheduleSettings

__all__ = ["Annealing", "annealing"]


def annealing(
    step: int, *, temperature: float = 1.0, floor: float = 0.01, alpha: float = 0.99, every: float = 1.0
) -> float:
    """Return ``max(floor, temperature * alpha ** (step / every))``: T_min, T_0 and alpha of simulated annealing.

    Source: Kirkpatrick et al. 1983, "Optimization by simulated annealing".

    >>> [round(annealing(step), 4) for step in (0, 1, 100, 1000)]
    [1.0, 0.99, 0.366, 0.01]
    """
    return max(floor, temperature * math.pow(alpha, step / every))


class Annealing(ScheduleSettings):
    """Settings of `annealing`."""

    temperature: float = Field(default=1.0, gt=0)
    """The first factor, T_0."""
    floor: float = Field(default=0.01, ge=0)
    """The lowest factor, T_min."""
    alpha: float = Field(default=0.99, gt=0, lt=1)
    """What the temperature is multiplied by in the course of `every`."""
    every: DurationSetting = Duration(1, "%")
    """The time that `alpha` is meant for: '1 epoch', '1%' of the run, 1 step; a fraction of a step is fine."""

    @model_validator(mode="after")
    def _check(self) -> Annealing:
        if self.floor > self.temperature:
            raise SettingError(
                f"floor={self.floor:g} is above temperature={self.temperature:g}, so nothing would cool; use a floor "
                f"of at most {self.temperature:g}"
            )
        return self

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        every = self.every.exact_steps(run)
        if every == 0:
            raise SettingError(f"every={self.every} is no time; give 1 step, '1 epoch' or '1%'")
        schedule = functools.partial(
            annealing, temperature=self.temperature, floor=self.floor, alpha=self.alpha, every=every
        )
        return Held(schedule, steps)
