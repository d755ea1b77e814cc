"""Gradient centralization as a method."""

from __future__ import annotations

from torch import nn

from lehr.base.protocols import Method, Place, RunContext
from lehr.base.settings import Settings
from lehr.optim.centralize import centralize_

__all__ = ["GradientCentralization"]


class GradientCentralization(Settings):
    """Settings of `lehr.optim.centralize_` before each update, after what the recipe's ``clip`` does."""

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""
        return GradientCentralizationMethod()


class GradientCentralizationMethod(Method):
    """Centralizes the gradients of one run."""

    changes = frozenset({"gradients"})

    def grads_ready(self, model: nn.Module, place: Place) -> None:
        centralize_(p.grad for p in model.parameters() if p.grad is not None)
