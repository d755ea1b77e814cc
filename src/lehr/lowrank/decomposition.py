"""What a factorization returns: the factors, and how much of the matrix they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Decomposition", "Pair", "truncated"]


class Pair(NamedTuple):
    """Two factors of a matrix: ``left @ right.mT``.

    >>> pair = Pair(torch.ones(2, 1), torch.ones(3, 1)); (pair.left @ pair.right.mT).shape
    torch.Size([2, 3])
    """

    left: Tensor
    """(..., m, r)."""
    right: Tensor
    """(..., n, r)."""


@dataclass(frozen=True, kw_only=True)
class Decomposition:
    """``A ~ U diag(S) V^T``, of one matrix (m, n) or of a batch of them (..., m, n), with exact diagnostics.

    >>> from lehr.lowrank.factorize import factorize
    >>> found = factorize(torch.diag(torch.tensor([4.0, 3.0, 0.0])), rank=1)
    >>> found.rank, round(found.S.item(), 4), round(found.energy.item(), 4), round(found.residual.item(), 4)
    (1, 4.0, 0.64, 3.0)
    """

    U: Tensor
    """Left singular vectors (..., m, r), orthonormal columns."""
    S: Tensor
    """Singular values (..., r), descending."""
    V: Tensor
    """Right singular vectors (..., n, r), orthonormal columns."""
    basis: Tensor
    """What a next call may start from: V and the oversampled directions after it, (..., n, k), k >= r."""
    energy: Tensor
    """Share of ``||A||_F^2`` that is kept (...), against the true total; 1 for a matrix of zeros."""
    residual: Tensor
    """``||A - U diag(S) V^T||_F`` (...)."""
    finite: Tensor
    """Whether A was finite (...), bool; where not, the factors and diagnostics are NaN, and the basis is not."""
    method: str
    """How it was found: "exact", "range", "gram" or "warm"."""

    @property
    def rank(self) -> int:
        """Columns of the factors."""
        return self.S.shape[-1]

    def dense(self) -> Tensor:
        """Return the product ``U diag(S) V^T`` (..., m, n)."""
        return (self.U * self.S.unsqueeze(-2)) @ self.V.mT

    def pair(self) -> Pair:
        """Return two factors with the singular values split evenly: ``U sqrt(S)`` and ``V sqrt(S)``."""
        root = self.S.sqrt().unsqueeze(-2)
        return Pair(self.U * root, self.V * root)


def truncated(A: Tensor, rank: int) -> Pair:
    """Return the best factors of a rank of a matrix (m, n), the singular values split evenly; by the exact SVD.

    >>> pair = truncated(torch.diag(torch.tensor([2.0, 1.0])), 1); (pair.left @ pair.right.mT).sum().round(decimals=3)
    tensor(2.)
    """
    U, S, Vh = torch.linalg.svd(A, full_matrices=False)
    root = S[:rank].sqrt()
    return Pair(U[:, :rank] * root, Vh[:rank].mT * root)
