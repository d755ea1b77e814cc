"""Mean squared error, as a sum and a count."""

from __future__ import annotations

from torch import Tensor

from lehr.losses.elements import num_elements, residual

__all__ = ["mse"]


def mse(output: Tensor, target: Tensor, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor | int]:
    """Return ``sum (output - target)^2`` and the number of elements: their ratio is the mean squared error.

    ``output`` and ``target`` are of one shape; where the boolean ``mask`` of that shape is false, nothing counts.
    A target that is NaN and not masked makes the loss NaN. Raises `DataError` where the shapes differ.

    >>> import torch
    >>> total, count = mse(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 3.0, 2.0]))
    >>> float(total), count
    (10.0, 3)
    """
    return residual(output, target, mask).square().sum(), num_elements(target, mask)
