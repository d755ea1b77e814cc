"""Random test matrices: what a matrix is multiplied by to learn which directions it has."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lehr.base.seeds import address

__all__ = ["Sketch", "gaussian", "sketched", "sparse_sign"]

Sketch = Literal["gaussian", "sparse_sign", "count"]

NONZEROS = 8
"""Nonzero entries in a row of a sparse sign matrix (Tropp et al. 2019, arXiv 1902.08651)."""


def sketched(A: Tensor, k: int, sketch: Sketch, seed: int) -> Tensor:
    """Return ``A Omega`` (..., m, k) for a random Omega (n, k), the same for all matrices of a batch.

    Drawn on A's device from a generator of its own; the same on every process.

    >>> sketched(torch.ones(2, 9), 4, "count", seed=0).shape
    torch.Size([2, 4])
    """
    n = A.shape[-1]
    own = torch.Generator(A.device).manual_seed(address(seed, "sketch"))
    if sketch == "gaussian":
        return A @ gaussian(n, k, own).to(A.dtype)
    return A @ sparse_sign(n, k, own, nonzeros=min(k, NONZEROS) if sketch == "sparse_sign" else 1).to(A.dtype)


def gaussian(n: int, k: int, own: torch.Generator) -> Tensor:
    """Return independent standard normals (n, k).

    >>> gaussian(2, 3, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3])
    """
    return torch.randn(n, k, generator=own, device=own.device)


def sparse_sign(n: int, k: int, own: torch.Generator, *, nonzeros: int = NONZEROS) -> Tensor:
    """Return a matrix (n, k) with ``nonzeros`` random signs in each row, at distinct places; 1 is a count sketch.

    >>> sparse_sign(3, 4, torch.Generator().manual_seed(0), nonzeros=2).abs().sum(dim=1)
    tensor([2., 2., 2.])
    """
    places = torch.rand(n, k, generator=own, device=own.device).topk(nonzeros, dim=1).indices
    signs = torch.randint(2, (n, nonzeros), generator=own, device=own.device, dtype=torch.float32).mul_(2).sub_(1)
    return torch.zeros(n, k, device=own.device).scatter_(1, places, signs)
