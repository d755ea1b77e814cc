"""Adaptive gradient clipping: each unit's gradient against the size of its own weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lehr.base.errors import SettingError

__all__ = ["adaptive_clip_", "unit_norms"]


def unit_norms(value: Tensor) -> Tensor:
    """Return the 2-norm of each unit of a weight or a gradient, with a shape that broadcasts against it.

    A unit is a row of a matrix and a filter of a kernel: all that leads to one output. A vector or a number, such as a
    bias, is one unit. Dimensions of size 1 make no vector a matrix.

    >>> unit_norms(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    tensor([[5.],
            [2.]])
    """
    if value.squeeze().ndim <= 1:
        return torch.linalg.vector_norm(value)  # type: ignore[no-any-return]
    return torch.linalg.vector_norm(value, dim=tuple(range(1, value.ndim)), keepdim=True)  # type: ignore[no-any-return]


def adaptive_clip_(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor], *, limit: float = 0.01, eps: float = 1e-3
) -> None:
    """Shorten each unit's gradient to ``limit`` times the norm of the unit's weights, in place.

    With unit i of a weight W and its gradient G, ``w_i = max(||W_i||, eps)``:
    ``G_i <- G_i * limit * w_i / ||G_i||`` where ``||G_i|| > limit * w_i``. ``eps`` lets weights that are zero move.
    Source: Brock et al. 2021 (arXiv 2102.06171), equation 3.

    >>> weight, gradient = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.3, 0.4]])
    >>> adaptive_clip_([weight], [gradient], limit=0.1, eps=0.5); gradient
    tensor([[0.0000, 0.5000],
            [0.0300, 0.0400]])
    """
    for name, value in (("limit", limit), ("eps", eps)):
        if not value > 0:
            raise SettingError(f"{name}={value} of adaptive clipping must be above 0; usual are limit=0.01, eps=1e-3")
    for parameter, gradient in zip(parameters, gradients, strict=True):
        most = unit_norms(parameter.detach()).clamp(min=eps) * limit
        size = unit_norms(gradient)
        gradient.mul_(torch.where(size > most, most / size, 1.0))
