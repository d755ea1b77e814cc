"""What the optimizers of lehr's own share: lists of parameters, gradients and state, and the closure's loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Lists", "counter", "gather", "loss_of"]


class Lists(NamedTuple):
    """The parameters of a group that have a gradient, with their gradients and their state, in one order."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    states: list[dict[str, Any]]

    def of(self, key: str) -> list[Tensor]:
        """Return what is kept under ``key``, one for each parameter."""
        return [state[key] for state in self.states]


def gather(
    optimizer: torch.optim.Optimizer, group: dict[str, Any], fresh: Callable[[Tensor], dict[str, Tensor]]
) -> Lists:
    """Return the lists of a group; a parameter's state is made with ``fresh`` at its first gradient."""
    parameters = [p for p in group["params"] if p.grad is not None]
    for parameter in parameters:
        if parameter.grad.is_sparse or parameter.is_complex():
            kind = "sparse gradients" if parameter.grad.is_sparse else "complex parameters"
            raise ValueError(f"{type(optimizer).__name__} does not take {kind}")
        if not optimizer.state[parameter]:
            optimizer.state[parameter] = fresh(parameter)
    return Lists(parameters, [p.grad for p in parameters], [optimizer.state[p] for p in parameters])


def counter() -> Tensor:
    """Return a count of updates at 0, as torch's optimizers keep it: a 0-d tensor on the CPU."""
    return torch.zeros((), dtype=torch.float32)


def loss_of(closure: Callable[[], float] | None) -> float | None:
    """Return what the closure of a step gives, if there is one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
