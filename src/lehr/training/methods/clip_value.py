"""Clipping by value as a method."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from lehr.base.protocols import Method, Place, RunContext
from lehr.base.settings import Settings
from lehr.optim.clip_value import clip_by_value_

__all__ = ["ClipByValue"]


class ClipByValue(Settings):
    """Settings of `lehr.optim.clip_by_value_` before each update, after what the recipe's ``clip`` does.

    >>> ClipByValue(limit=0.1).limit
    0.1
    """

    limit: float = Field(default=0.5, gt=0)
    """Largest absolute value of an element of the gradient of the mean loss."""

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""
        return ClipByValueMethod(self.limit)


class ClipByValueMethod(Method):
    """Clips the gradients of one run."""

    changes = frozenset({"gradients"})

    def __init__(self, limit: float) -> None:
        self._limit = limit

    def grads_ready(self, model: nn.Module, place: Place) -> None:
        clip_by_value_([p.grad for p in model.parameters() if p.grad is not None], self._limit)
