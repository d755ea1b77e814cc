"""What a run came to: the keys that `lehr train --json` prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

__all__ = ["RunResult"]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The outcome of `train` or `resume`."""

    run: str | None
    """The run folder."""
    step: int
    train_loss: float | None
    """Mean loss of the last recorded window."""
    val_loss: float | None
    """Loss on all validation data at the end."""
    best_val_loss: float | None
    """The lowest loss of the validations during the run."""
    metrics: dict[str, float]
    """The other values of the last validation."""
    stopped: str
    """"finished", "target", "early-stop", "preempted", what a method asked with, or "left": a loop of the user's own
    that did not go to the end."""
    train_seconds: float
    """Time inside steps."""
    wall_seconds: float
    samples_per_second: float | None
    tokens_per_second: float | None
    skipped: int = 0
    """Updates withheld because something was not finite."""
    compilations: int | None = None
    """Graphs that torch compiled, for a compiled run."""
    model: nn.Module | None = field(default=None, repr=False, compare=False)
    """The trained model, with its last weights."""

    def plain(self) -> dict[str, Any]:
        """Return all but the model, for JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "model"}

    @property
    def folder(self) -> Path | None:
        """The run folder as a path."""
        return Path(self.run) if self.run is not None else None
