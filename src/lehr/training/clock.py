"""The one clock of a run: applied updates. Everything else is a counter beside it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

__all__ = ["Clock"]


@dataclasses.dataclass(slots=True)
class Clock:
    """How far a run is.

    >>> Clock(step=3).state_dict()["step"]
    3
    """

    step: int = 0
    """Applied updates."""
    microsteps: int = 0
    """Forward and backward passes of applied updates."""
    samples: int = 0
    """Samples of applied updates, over all processes."""
    count: float = 0.0
    """What the objective counted: samples, or tokens for a language model."""
    skipped: int = 0
    """Updates withheld because something was not finite."""
    empty: int = 0
    """Updates withheld because nothing was counted."""
    withheld_in_a_row: int = 0
    """Updates withheld since the last applied one."""
    train_seconds: float = 0.0
    """Time inside steps, waiting for data included."""
    wall_seconds: float = 0.0
    """Time of the run, evaluation and saving included, over all its processes, up to the last `tick`."""
    ticked: float | None = None
    """When that was, by this process's own clock."""

    def tick(self) -> None:
        """Bring `wall_seconds` up to date; the first tick of a process only starts it."""
        now = time.perf_counter()
        self.wall_seconds += now - self.ticked if self.ticked is not None else 0.0
        self.ticked = now

    def advance(self, microbatches: int) -> None:
        """Count one applied update."""
        self.step += 1
        self.microsteps += microbatches
        self.withheld_in_a_row = 0

    def state_dict(self) -> dict[str, Any]:
        """Return all counters."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "ticked"}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Set all counters."""
        for name, value in state.items():
            setattr(self, name, value)
