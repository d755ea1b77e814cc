"""How much memory the state of optimizers takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["optimizer_bytes"]


def optimizer_bytes(*optimizers: torch.optim.Optimizer) -> int:
    """Return the bytes of all tensors in the state of ``optimizers``, in whatever they are nested; each counts once.

    Gradients and the weights are not among them, nor is anything before a first update.

    >>> parameter = torch.nn.Parameter(torch.zeros(10)); parameter.grad = torch.ones(10)
    >>> optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9); optimizer.step(); optimizer_bytes(optimizer)
    40
    """
    tensors = {id(t): t for optimizer in optimizers for t in _tensors(optimizer.state)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)
