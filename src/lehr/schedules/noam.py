"""The first Transformer's schedule, which gives the rate itself."""

from __future__ import annotations

import functools

from pydantic import Field

from lehr.base.durations import Duration, DurationSetting, RunLength
from lehr.schedules.schedule import Held, Schedule, ScheduleSettings, warmup_steps

__all__ = ["Noam", "noam"]


def noam(step: int, *, d_model: int = 512, warmup: int = 4000) -> float:
    """Return the rate ``d_model ** -0.5 * min(n ** -0.5, n * W ** -1.5)`` with ``n = step + 1``.

    Its peak is ``1 / sqrt(d_model * W)``, at the end of the warm-up of W updates. A warm-up of 0 or 1 is none. Source:
    Vaswani et al. 2017 (arXiv 1706.03762), section 5.3.

    >>> round(noam(3999), 7)
    0.0006988
    """
    n, warmup = step + 1, max(1, warmup)
    return float(d_model**-0.5 * min(n**-0.5, n * warmup**-1.5))


class Noam(ScheduleSettings):
    """Settings of `noam`. Its values are rates, so the optimizer's own rate has to be 1."""

    d_model: int = Field(default=512, ge=1)
    """Size of the model's vectors."""
    warmup: DurationSetting = Duration(5, "%")
    """Linear warm-up: steps, '5%' of the run or '1 epoch'."""

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the rates over ``steps`` updates."""
        warmup = warmup_steps(self.warmup, steps=steps, run=run)
        return Held(functools.partial(noam, d_model=self.d_model, warmup=warmup), steps)

    @property
    def absolute(self) -> bool:
        """Whether its values are rates themselves: yes."""
        return True
