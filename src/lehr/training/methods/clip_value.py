"""Clipping by value as a method."""

from __future__ import annotations

from pydantic import Field

from lehr.base.protocols import Method, RunContext
from lehr.base.settings import Settings
from lehr.optim.clip_value import clip_by_value_
from lehr.training.methods.gradient_change import GradientChange

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
        return GradientChange(lambda _, gradients: clip_by_value_(gradients, self.limit))
