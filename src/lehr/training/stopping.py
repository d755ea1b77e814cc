"""Early stopping and targets, decided at evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from pydantic import Field

from lehr.base.errors import StopRun
from lehr.base.protocols import Observer, Place
from lehr.base.settings import Settings

Goal: TypeAlias = Literal["min", "max"]

__all__ = ["Stop", "Stopping", "improves"]


class Stop(Settings):
    """When a run ends before its last step."""

    val_loss: float | None = None
    """End the run when the validation loss is at most this ("target")."""
    patience: int | None = Field(default=None, ge=1)
    """End the run after so many evaluations in a row without an improvement ("early-stop")."""
    min_delta: float = Field(default=0.0, ge=0)
    """What the monitored value must improve by, more than this, to count as an improvement."""
    min_steps: int = Field(default=0, ge=0)
    """Never stop before so many steps; evaluations before it still count."""


def improves(value: float, best: float | None, *, goal: Goal = "min", min_delta: float = 0.0) -> bool:
    """Whether ``value`` is better than ``best`` by more than ``min_delta``: an equal one, NaN and infinities are not.

    >>> improves(1.0, None), improves(1.0, 1.0), improves(math.inf, 1.0, goal="max"), improves(0.9, 1.0, min_delta=0.2)
    (True, False, False, False)
    """
    if not math.isfinite(value):
        return False
    if best is None:
        return True
    return best - value > min_delta if goal == "min" else value - best > min_delta


class Stopping(Observer):
    """Follows the monitored value over evaluations and asks for a stop. Its memory is saved with the run."""

    def __init__(self, settings: Stop, *, monitor: str, goal: Goal) -> None:
        self.settings, self.monitor, self.goal = settings, monitor, goal
        self.best: float | None = None
        self.waited = 0

    def eval_end(self, place: Place, values: Mapping[str, float]) -> None:
        """Compare the monitored value with the best so far."""
        value = values[self.monitor]
        if improves(value, self.best, goal=self.goal, min_delta=self.settings.min_delta):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if place.step < self.settings.min_steps:
            return
        if self.settings.val_loss is not None and values["loss"] <= self.settings.val_loss:
            raise StopRun("target")
        if self.settings.patience is not None and self.waited >= self.settings.patience:
            raise StopRun("early-stop")

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, of what, and how many evaluations it has stood."""
        return {"monitor": self.monitor, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Set them; with another monitored value the wait begins anew."""
        if state.get("monitor", self.monitor) == self.monitor:
            self.best, self.waited = state["best"], state["waited"]
