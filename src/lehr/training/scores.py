"""What evaluations have given so far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from lehr.training.stopping import improves

__all__ = ["Scores"]


@dataclasses.dataclass(kw_only=True)
class Scores:
    """The last and the best values. ``monitor`` names the one that best checkpoints and early stopping go by.

    >>> scores = Scores()
    >>> scores.take({"loss": 1.0}, step=10), scores.take({"loss": 1.5}, step=20), scores.best_loss
    (True, False, 1.0)
    """

    monitor: str = "loss"
    goal: Literal["min", "max"] = "min"
    values: dict[str, float] = dataclasses.field(default_factory=dict)
    evaluated_at: int | None = None
    best: float | None = None
    best_loss: float | None = None
    train_loss: float | None = None

    def take(self, values: Mapping[str, float], *, step: int) -> bool:
        """Note an evaluation; returns whether the monitored value is the best so far."""
        self.values, self.evaluated_at = dict(values), step
        if improves(values["loss"], self.best_loss):
            self.best_loss = values["loss"]
        better = improves(values[self.monitor], self.best, goal=self.goal)
        if better:
            self.best = values[self.monitor]
        return better

    def value_at(self, step: int) -> float | None:
        """Return the monitored value, if it was measured at this step and is a number."""
        value = self.values.get(self.monitor) if self.evaluated_at == step else None
        return value if value is not None and math.isfinite(value) else None

    def state_dict(self) -> dict[str, Any]:
        """Return the values, and which of them the best is one of."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "goal"}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Set the values; the best of another monitored value is none of this one."""
        for name, value in state.items():
            if name != "monitor":
                setattr(self, name, value)
        if state.get("monitor", self.monitor) != self.monitor:
            self.best = None
