"""Targets as probabilities of classes, which can be mixed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lehr.base.errors import DataError

__all__ = ["full_type", "mix_targets", "probabilities"]


def full_type(x: Tensor) -> torch.dtype:
    """Return the type for the targets of ``x``: 32 bits at least, since 16 hold a share badly."""
    return torch.promote_types(x.dtype, torch.float32)


def probabilities(y: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return targets as probabilities (B, K): integer labels (B,) as one-hot rows, probabilities as they are.

    >>> probabilities(torch.tensor([2, 0]), 3)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    if y.is_floating_point() and y.ndim == 2 and y.shape[1] == num_classes:
        return y.to(dtype)
    if y.is_floating_point() or y.is_complex() or y.ndim != 1:
        raise DataError(
            f"the targets have shape {tuple(y.shape)} and type {y.dtype}; mixing needs integer labels (B,), or "
            f"probabilities (B, {num_classes}) of the {num_classes} classes"
        )
    if y.device.type == "cpu" and len(y) and not 0 <= int(y.min()) <= int(y.max()) < num_classes:
        # elsewhere, looking at them would make the host wait; the run looks at the first batch
        raise DataError(
            f"labels must be 0 to {num_classes - 1}, since there are {num_classes} classes; found {int(y.min())} to "
            f"{int(y.max())}. A label that is to be ignored cannot be mixed"
        )
    return F.one_hot(y.long(), num_classes).to(dtype)


def mix_targets(y_a: Tensor, y_b: Tensor, share: float, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return ``share q_a + (1 - share) q_b``, where q are the targets as probabilities.

    A cat of which 0.7 is left, and a dog for the rest:

    >>> mix_targets(torch.tensor([0]), torch.tensor([1]), 0.7, 2)
    tensor([[0.7000, 0.3000]])
    """
    q_a, q_b = (probabilities(y, num_classes, dtype) for y in (y_a, y_b))
    return share * q_a + (1 - share) * q_b
