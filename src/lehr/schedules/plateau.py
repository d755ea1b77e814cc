"""Fall when a measured value no longer improves: the one schedule that has a memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from lehr.base.durations import RunLength
from lehr.base.errors import SettingError
from lehr.base.protocols import Observer, Place
from lehr.schedules.schedule import Schedule, ScheduleSettings

__all__ = ["Memory", "Plateau", "PlateauSchedule", "plateau"]


@dataclass(frozen=True)
class Memory:
    """What a plateau knows after the evaluations so far."""

    factor: float = 1.0
    best: float | None = None
    """The best value so far; None before the first that is a number."""
    waited: int = 0
    """Evaluations in a row without an improvement."""
    cooldown: int = 0
    """Evaluations that are still not counted, after a fall."""


class Plateau(ScheduleSettings):
    """Settings of `plateau`."""

    monitor: str = "loss"
    """The value of an evaluation that it goes by: "loss" or the name of a metric."""
    mode: Literal["min", "max"] = "min"
    """Whether the value is to be small or large."""
    factor: float = Field(default=0.1, gt=0, lt=1)
    """What the rate is multiplied by."""
    patience: int = Field(default=2, ge=0)
    """How many evaluations in a row may pass without an improvement; the next one lowers the rate."""
    threshold: float = Field(default=1e-4, ge=0)
    """By how much a value has to be better than the best so far."""
    threshold_mode: Literal["rel", "abs"] = "rel"
    """Whether the threshold is a share of the best value's size, or an amount."""
    cooldown: int = Field(default=0, ge=0)
    """How many evaluations after a fall are not counted."""
    floor: float = Field(default=0.0, ge=0, lt=1)
    """The lowest factor, as a share of the base rate."""

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates; it starts without a memory."""
        return PlateauSchedule(self, steps)


def plateau(memory: Memory, value: float, settings: Plateau) -> Memory:
    """Return the memory after an evaluation that measured ``value``.

    The factor falls after more than ``patience`` evaluations in a row that are no improvement, as with torch's
    ``ReduceLROnPlateau``. A NaN is never an improvement. A relative threshold is a share of the best value's size, so
    it also works below 0, where torch's takes a value that is slightly worse for a better one.

    >>> settings, memory = Plateau(patience=1, factor=0.5), Memory()
    >>> for value in (1.0, 1.0, float("nan")):
    ...     memory = plateau(memory, value, settings)
    >>> memory
    Memory(factor=0.5, best=1.0, waited=0, cooldown=0)
    """
    better = _improves(value, memory.best, settings)
    best = value if better else memory.best
    if memory.cooldown:
        return dataclasses.replace(memory, best=best, waited=0, cooldown=memory.cooldown - 1)
    waited = 0 if better else memory.waited + 1
    if waited <= settings.patience:
        return dataclasses.replace(memory, best=best, waited=waited)
    return Memory(max(settings.floor, memory.factor * settings.factor), best, 0, settings.cooldown)


def _improves(value: float, best: float | None, settings: Plateau) -> bool:
    if math.isnan(value):
        return False
    if best is None or math.isinf(best):
        best = best if best is not None else math.inf if settings.mode == "min" else -math.inf
        return value < best if settings.mode == "min" else value > best
    needed = settings.threshold * (abs(best) if settings.threshold_mode == "rel" else 1)
    return value < best - needed if settings.mode == "min" else value > best + needed


class PlateauSchedule(Observer):
    """A plateau over ``steps`` updates: a function of the step that evaluations change, and its memory."""

    def __init__(self, settings: Plateau, steps: int) -> None:
        self.settings, self.steps = settings, steps
        self.memory = Memory()

    def __call__(self, step: int) -> float:
        """Return the factor as it is now, whatever the step."""
        return self.memory.factor

    @property
    def monitor(self) -> str:
        """The measured value that it goes by."""
        return self.settings.monitor

    def eval_end(self, place: Place, values: Mapping[str, float]) -> None:
        """Take the monitored value of an evaluation."""
        if place.step > self.steps:
            return
        if self.monitor not in values:
            raise SettingError(f"schedule.monitor={self.monitor!r} is not measured; known: {', '.join(values)}")
        self.memory = plateau(self.memory, values[self.monitor], self.settings)

    def state_dict(self) -> dict[str, Any]:
        """Return the factor, the best value and the counts."""
        return dataclasses.asdict(self.memory)

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Set them."""
        self.memory = Memory(**state)
