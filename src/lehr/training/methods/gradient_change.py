"""A function of the gradients as a method."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from lehr.base.protocols import Method, Place

__all__ = ["GradientChange"]


class GradientChange(Method):
    """Calls ``change`` before each update with the parameters that have a gradient, and with their gradients.

    ``chosen`` are the parameters to look at; all of the model's, if not given.
    """

    changes = frozenset({"gradients"})

    def __init__(
        self, change: Callable[[list[Tensor], list[Tensor]], None], chosen: list[nn.Parameter] | None = None
    ) -> None:
        self._change, self._chosen = change, chosen

    def grads_ready(self, model: nn.Module, place: Place) -> None:
        """Change the gradients that there are."""
        chosen = model.parameters() if self._chosen is None else self._chosen
        reached = [(p, p.grad) for p in chosen if p.grad is not None]
        self._change([p for p, _ in reached], [gradient for _, gradient in reached])
