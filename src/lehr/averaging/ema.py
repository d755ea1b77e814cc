"""Exponential moving average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from lehr.averaging.held import HeldWeights
from lehr.base.errors import SettingError

__all__ = ["EMA", "ema_decay"]


def ema_decay(updates: int, decay: float, *, warmup: bool = True) -> float:
    """Return the decay of update number ``updates`` (from 0): ``min(decay, (1 + n) / (10 + n))`` with warm-up.

    Without warm-up the first averages are little more than the random weights that training began with.

    >>> ema_decay(0, 0.999), ema_decay(90, 0.999), ema_decay(100000, 0.999), ema_decay(0, 0.999, warmup=False)
    (0.1, 0.91, 0.999, 0.999)
    """
    return min(decay, (1 + updates) / (10 + updates)) if warmup else decay


class EMA:
    """``average = d average + (1 - d) weights`` after each update. Source: Polyak and Juditsky 1992; d as `ema_decay`.

    Buffers, such as the statistics of batch norm, are running averages already and stay the model's own.

    >>> model = nn.Linear(1, 1)
    >>> ema = EMA(model, decay=0.99)
    >>> for _ in range(3):
    ...     pass  # an update of the model
    ...     ema.update()
    >>> with ema.put_in():
    ...     pass  # evaluate
    """

    def __init__(self, model: nn.Module, *, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0 < decay < 1:
            raise SettingError(f"decay={decay} of an average of weights must lie between 0 and 1, such as 0.999")
        self.decay, self.warmup = decay, warmup
        self.updates = 0
        self._held = HeldWeights(model)

    def update(self) -> None:
        """Take the weights as they now are into the average."""
        decay = ema_decay(self.updates, self.decay, warmup=self.warmup)
        self._held.towards(1 - decay)
        self.updates += 1

    def take_hold(self) -> None:
        """Go on with the parameters as the model now has them; the averages of new ones begin with their values."""
        self._held.take_hold()

    def put_in(self) -> contextlib.AbstractContextManager[None]:
        """Let the model have the averaged weights within a block."""
        return self._held.put_in()

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of updates in it."""
        return {"updates": self.updates, "weights": self._held.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Set them."""
        self._held.load_state_dict(state["weights"])
        self.updates = state["updates"]
