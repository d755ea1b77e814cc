"""Frobenius decay: what weight decay of a dense layer is for a layer of two factors."""

from __future__ import annotations

import torch
from torch import Tensor

from lehr.base.tensors import in_full

__all__ = ["frobenius_decay", "frobenius_decay_"]


def frobenius_decay(U: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of ``||U V^T||_F^2 / 2``: ``U (V^T V)`` and ``V (U^T U)``.

    Decay of each factor by itself, ``(||U||_F^2 + ||V||_F^2) / 2``, at its least is the nuclear norm of the product: it
    lowers the rank, and holds a layer that starts at √S in both factors back more than a dense one would be.
    Source: Khodak et al. 2021 (arXiv 2105.01029). Shapes: U (m, r), V (n, r). Cost: 4 r² (m + n) operations; the
    product is not formed.

    >>> U, V = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0]])
    >>> frobenius_decay(U, V)
    (tensor([[ 9.],
            [18.]]), tensor([[15.]]))
    """
    full_U, full_V = in_full(U), in_full(V)
    return (full_U @ (full_V.mT @ full_V)).to(U.dtype), (full_V @ (full_U.mT @ full_U)).to(V.dtype)


@torch.no_grad()
def frobenius_decay_(U: Tensor, V: Tensor, amount: float) -> None:
    """Take ``amount`` times `frobenius_decay` from both factors in place, at once; ``amount`` is rate times decay.

    >>> U, V = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0]])
    >>> frobenius_decay_(U, V, 0.1); U.T, V
    (tensor([[0.1000, 0.2000]]), tensor([[1.5000]]))
    """
    of_U, of_V = frobenius_decay(U, V)
    U.sub_(of_U, alpha=amount)
    V.sub_(of_V, alpha=amount)
