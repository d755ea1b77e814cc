"""Mean absolute error, as a sum and a count."""

from __future__ import annotations

from torch import Tensor

from lehr.losses.elements import num_elements, residual

__all__ = ["mae"]


def mae(output: Tensor, target: Tensor, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor | int]:
    """Return ``sum |output - target|`` and the number of elements: their ratio is the mean absolute error.

    ``output`` and ``target`` are of one shape; where the boolean ``mask`` of that shape is false, nothing counts.
    The gradient at equality is 0. Raises `DataError` where the shapes differ.

    >>> import torch
    >>> total, count = mae(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 3.0, 2.0]))
    >>> float(total), count
    (4.0, 3)
    """
    return residual(output, target, mask).abs().sum(), num_elements(target, mask)
