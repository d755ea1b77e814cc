"""A warm-up, as a schedule of its own: then the base rate."""

from __future__ import annotations

import functools
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from lehr.base.durations import Duration, DurationSetting, RunLength
from lehr.base.errors import SettingError
from lehr.schedules.schedule import Schedule, ScheduleSettings, warmup_factor

__all__ = ["Warmup", "warmup"]


def warmup(step: int, *, total: int, form: Literal["linear", "exponential"] = "linear", start: float = 0.0) -> float:
    """Return a rise to 1 in ``total`` updates, along ``p = (step + 1) / total``; 1 from the last of them on.

    Linear ``start + (1 - start) p``, exponential ``start ** (1 - p)``. No update has the factor ``start`` itself, so
    that a line from 0 wastes none. Source: Goyal et al. 2017 (arXiv 1706.02677).

    >>> [warmup(step, total=4) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    >>> [round(warmup(step, total=2, form="exponential", start=0.01), 3) for step in range(3)]
    [0.1, 1.0, 1.0]
    """
    progress = warmup_factor(step, total)
    return start ** (1 - progress) if form == "exponential" else start + (1 - start) * progress


class Warmup(ScheduleSettings):
    """Settings of `warmup`."""

    skippable: ClassVar[bool] = True

    length: DurationSetting | None = Duration(5, "%")
    """How long the rise takes: steps, '5%' of the run or '1 epoch'."""
    form: Literal["linear", "exponential"] = "linear"
    """Form of the rise: linear or exponential."""
    start: float = Field(default=0.0, ge=0, lt=1)
    """The factor that the rise comes from; more than 0 for the exponential form."""

    @model_validator(mode="after")
    def _check(self) -> Warmup:
        if self.form == "exponential" and self.start == 0:
            raise SettingError("form=exponential cannot rise from 0; give a start, such as start=0.01")
        return self

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        return functools.partial(warmup, total=steps, form=self.form, start=self.start)
