"""Stochastic weight averaging: the equal average of weights along the run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from lehr.averaging.held import HeldWeights

__all__ = ["SWA"]


class SWA:
    """``average_n = average_(n-1) + (weights - average_(n-1)) / n``: all n that were taken weigh the same.

    The statistics of batch norm belong to other weights than the average; `lehr.averaging.refresh_norms` makes them
    anew. Source: Izmailov et al. 2018, arXiv 1803.05407. Memory: a copy of the weights, another one within `put_in`.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> swa = SWA(model)
    >>> for value in (1.0, 2.0, 6.0):
    ...     _ = nn.init.constant_(model.weight, value)
    ...     swa.update()
    >>> with swa.put_in():
    ...     model.weight.item()
    3.0
    """

    def __init__(self, model: nn.Module) -> None:
        self.taken = 0
        self._held = HeldWeights(model)

    def update(self) -> None:
        """Take the weights as they now are into the average."""
        self.taken += 1
        self._held.towards(1 / self.taken)

    def take_hold(self) -> None:
        """Go on with the parameters as the model now has them; the averages of new ones begin with their values."""
        self._held.take_hold()

    def put_in(self) -> contextlib.AbstractContextManager[None]:
        """Let the model have the averaged weights within a block; its own as long as none were taken."""
        return self._held.put_in() if self.taken else contextlib.nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Return the average, and of how many weights it is; before the first there is none."""
        return {"taken": self.taken, "weights": self._held.state_dict() if self.taken else {}}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Set them."""
        if state["taken"]:
            self._held.load_state_dict(state["weights"])
        self.taken = state["taken"]
