"""The exponential moving average of the weights, evaluated beside the weights themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from lehr import averaging
from lehr.base.protocols import Method, Place, RunContext
from lehr.base.settings import Settings
from lehr.training.methods.own_average import refuse_own_average

__all__ = ["EMA"]


class EMA(Settings):
    """Settings of `lehr.averaging.EMA`, updated after each update of the weights.

    Evaluations report its values as ``ema_loss``, ``ema_accuracy`` and so on; ``evaluate.monitor=ema_loss`` lets best
    checkpoints and early stopping go by them.
    """

    prefix: ClassVar[str] = "ema"

    decay: float = Field(default=0.999, gt=0, lt=1)
    """Share of the average that an update keeps."""
    warmup: bool = True
    """Whether the decay begins low, so that the first weights are soon forgotten."""

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""
        refuse_own_average(context.optimizers, "which ema would average again; leave ema out, or use another optimizer")
        average = averaging.EMA(context.model, decay=self.decay, warmup=self.warmup)
        context.structure.follow(average.take_hold)
        return EMAMethod(average)


class EMAMethod(Method):
    """Keeps the average of one run."""

    changes = frozenset({"model"})
    prefix = EMA.prefix

    def __init__(self, average: averaging.EMA) -> None:
        self._average = average

    def step_end(self, model: nn.Module, place: Place) -> None:
        self._average.update()

    def put_in(self) -> contextlib.AbstractContextManager[None]:
        return self._average.put_in()

    def state_dict(self) -> dict[str, Any]:
        return self._average.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self._average.load_state_dict(state)
