"""What a schedule is, and the linear warm-up that the others begin with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

from lehr.base.durations import Duration
from lehr.base.errors import SettingError

__all__ = ["Schedule", "ScheduleSettings", "warmup_factor", "warmup_steps"]

Schedule: TypeAlias = Callable[[int], float]
"""step (0 for the first update) -> factor on the base rate. Pure: its checkpoint is the integer step."""


@runtime_checkable
class ScheduleSettings(Protocol):
    """Settings that become a schedule once the length of the run is known."""

    def resolve(self, *, total_steps: int, steps_per_epoch: int | None) -> Schedule:
        """Return the schedule for a run of ``total_steps`` updates."""


def warmup_factor(step: int, warmup: int) -> float:
    """Return ``(step + 1) / warmup``, at most 1: the first update has a small rate, never a rate of 0.

    The guide gives three conventions; two of them start at 0 and waste the first update.

    >>> [warmup_factor(step, 4) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def warmup_steps(warmup: Duration, *, total_steps: int, steps_per_epoch: int | None) -> int:
    """Return the warm-up in steps; one that is longer than the run is refused, never cut."""
    steps = warmup.steps(total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    if steps > total_steps:
        raise SettingError(
            f"warmup={warmup} is {steps} steps, but the run has {total_steps}; use at most {total_steps} steps, or '5%'"
        )
    return steps
