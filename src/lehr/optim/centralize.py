"""Gradient centralization."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

__all__ = ["centralize_"]


def centralize_(gradients: Iterable[Tensor]) -> None:
    """Subtract from each gradient of two or more dimensions its mean over all of them but the first, in place.

    ``G_i <- G_i - mean(G_i)`` for each output i: the step then keeps the sum of the weights that lead to an output.
    Gradients of biases and other vectors stay as they are. Source: Yong et al. 2020 (arXiv 2004.01461), equation 1.

    >>> import torch
    >>> gradient = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    >>> centralize_([gradient]); gradient
    tensor([[-1.,  1.],
            [ 0.,  0.]])
    """
    for gradient in gradients:
        if gradient.ndim >= 2:
            gradient.sub_(gradient.mean(dim=tuple(range(1, gradient.ndim)), keepdim=True))
