"""What losses share: sums in 32 bits, equal shapes, masks."""

from __future__ import annotations

import torch
from torch import Tensor

from lehr.base.errors import DataError, SettingError
from lehr.base.tensors import in_full

__all__ = ["added", "check_elements", "num_elements", "residual"]


def check_elements(output: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
    """Refuse an output, a target and a mask that are not of one shape: broadcasting would compare the wrong pairs.

    >>> check_elements(torch.zeros(4, 1), torch.zeros(4))
    Traceback (most recent call last):
    ...
    lehr.base.errors.DataError: the output has shape (4, 1) and the target (4,); they are compared element by element, so make the shapes equal, for example with output.squeeze(-1)
    """  # noqa: E501 - an error is one line
    if output.shape != target.shape:
        raise DataError(
            f"the output has shape {tuple(output.shape)} and the target {tuple(target.shape)}; they are compared "
            "element by element, so make the shapes equal, for example with output.squeeze(-1)"
        )
    if mask is not None and (mask.dtype != torch.bool or mask.shape != target.shape):
        raise DataError(
            f"the mask has shape {tuple(mask.shape)} and type {mask.dtype}; it must be of torch.bool and of the "
            f"target's shape {tuple(target.shape)}: true where an element counts"
        )


def residual(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return ``output - target`` in the output's precision, 32 bits at least, and 0 where the mask is false.

    What is masked reaches neither the sum nor a gradient, not even as NaN. A NaN that is not masked stays one.
    """
    check_elements(output, target, mask)
    output = in_full(output)
    difference = output - target.to(output.dtype)
    return difference if mask is None else difference.where(mask, 0)


def num_elements(target: Tensor, mask: Tensor | None = None) -> Tensor | int:
    """Return how many elements count: all, or those where the mask is true."""
    return target.numel() if mask is None else mask.sum()


def added(sums: list[Tensor]) -> Tensor:
    """Return the sum of 0-d tensors, one for each parameter that a penalty was given; none at all is refused.

    >>> float(added([torch.tensor(1.0), torch.tensor(2.0)]))
    3.0
    """
    if not sums:
        raise SettingError("a penalty was given no parameters; choose some, for example model.parameters()")
    return torch.stack(sums).sum()
