"""Random test matrices: what a matrix is multiplied by to learn which directions it has."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lehr.base.seeds import generator

__all__ = ["Sketch", "sketched", "sparse_sign"]

Sketch = Literal["gaussian", "sparse_sign", "count"]

NONZEROS = 8
"""Nonzero entries in a row of a sparse sign matrix (Tropp et al. 2019, arXiv 1902.08651)."""


def sketched(A: Tensor, k: int, sketch: Sketch, seed: int) -> Tensor:
    """Return ``A Omega`` (..., m, k) for a random Omega (n, k), the same for all matrices of a batch.

    Drawn on the CPU from a generator of its own, so that it is the same on every process and device.

    >>> sketched(torch.ones(2, 9), 4, "count", seed=0).shape
    torch.Size([2, 4])
    """
    n = A.shape[-1]
    own = generator(seed, "sketch")
    if sketch == "gaussian":
        omega = torch.randn(n, k, generator=own)
    else:
        omega = sparse_sign(n, k, own, nonzeros=min(k, NONZEROS) if sketch == "sparse_sign" else 1)
    return A @ omega.to(A)


def sparse_sign(n: int, k: int, own: torch.Generator, *, nonzeros: int = NONZEROS) -> Tensor:
    """Return a matrix (n, k) with ``nonzeros`` random signs in each row, at distinct places; 1 is a count sketch.

    >>> sparse_sign(3, 4, torch.Generator().manual_seed(0), nonzeros=2).abs().sum(dim=1)
    tensor([2., 2., 2.])
    """
    places = torch.rand(n, k, generator=own).topk(nonzeros, dim=1).indices
    signs = torch.randint(2, (n, nonzeros), generator=own, dtype=torch.float32).mul_(2).sub_(1)
    return torch.zeros(n, k).scatter_(1, places, signs)
