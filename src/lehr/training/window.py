"""The steps since the last record: kept as they come, read once, when somebody needs the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lehr.training.clock import Clock
from lehr.training.steps.eager import Outcome

__all__ = ["Window"]

MOST_PENDING = 1000
"""Steps that wait to be read, at the most; each takes a few hundred bytes."""


class Window:
    """Sums the loss and the count over the steps since the last record, and brings the clock's counters up to date.

    Sums are taken strictly in the order of the steps and in float64, so that they do not depend on when the pending
    steps were read: an interruption in the middle of a window leaves no trace in the record.

    >>> window, clock = Window(), Clock()
    >>> window.add(Outcome(total=6.0, count=4, samples=4, norm=0.5)); window.add(Outcome(2.0, 4, 4, 0.7))
    >>> window.settle(clock); window.mean(), window.norm, clock.samples
    (1.0, 0.7, 8)
    """

    def __init__(self) -> None:
        self.total, self.count, self.norm = 0.0, 0.0, 0.0
        self._pending: list[Outcome] = []

    @property
    def full(self) -> bool:
        """Whether so many steps are pending that they are to be read, record or not."""
        return len(self._pending) >= MOST_PENDING

    def add(self, outcome: Outcome) -> None:
        """Keep one applied step; nothing is read."""
        self._pending.append(outcome)

    def take_back(self, steps: int, clock: Clock) -> None:
        """Forget the last ``steps`` pending steps, and set the clock back by them."""
        for outcome in self._pending[len(self._pending) - steps :]:
            clock.step -= 1
            clock.microsteps -= outcome.microbatches
        del self._pending[len(self._pending) - steps :]

    def settle(self, clock: Clock) -> None:
        """Read the pending steps into the sums and the clock's counters. It waits for the device once at the most."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        rows = [(o.total, o.count, o.samples, o.norm) for o in pending]
        if isinstance(pending[0].norm, Tensor):
            rows = torch.stack([torch.stack([v.double() for v in row]) for row in rows]).tolist()
        for total, count, samples, norm in rows:
            self.total += total
            self.count += count
            self.norm = norm
            clock.samples += int(samples)
            clock.count += count

    def mean(self) -> float:
        """Return the mean loss over the settled steps."""
        return self.total / self.count

    def reset(self) -> None:
        """Begin a new window."""
        self.total, self.count, self.norm = 0.0, 0.0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the settled sums; settle first."""
        return {"total": self.total, "count": self.count, "norm": self.norm}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Set the sums."""
        self.total, self.count, self.norm = state["total"], state["count"], state["norm"]
