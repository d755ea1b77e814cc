"""Gradient centralization as a method."""

from __future__ import annotations

from lehr.base.protocols import Method, RunContext
from lehr.base.settings import Settings
from lehr.optim.centralize import centralize_
from lehr.training.methods.gradient_change import GradientChange

__all__ = ["GradientCentralization"]


class GradientCentralization(Settings):
    """Settings of `lehr.optim.centralize_` before each update, after what the recipe's ``clip`` does."""

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""
        return GradientChange(lambda _, gradients: centralize_(gradients))
