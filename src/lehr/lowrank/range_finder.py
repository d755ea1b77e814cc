"""The randomized range finder, with power iterations."""

from __future__ import annotations

from torch import Tensor

from lehr.lowrank.orthonormal import orthonormal, product
from lehr.lowrank.sketch import Sketch, sketched

__all__ = ["range_finder"]


def range_finder(A: Tensor, k: int, *, power: int, sketch: Sketch = "gaussian", seed: int = 0) -> Tensor:
    """Return Q (..., m, k), orthonormal, whose span holds most of what A (..., m, n) maps to; m >= n for speed.

    ``Q = orth((A A^T)^power A Omega)``, orthonormalized after each product, without which directions weaker than the
    root of the precision are lost. For ``k = r + p``, without power iterations,
    ``E ||A - Q Q^T A||_F <= sqrt(1 + r/(p - 1)) sqrt(sum of the squares of the singular values after the r-th)``.
    Source: Halko, Martinsson and Tropp 2011 (arXiv 0909.4061). Cost: ``2 power + 1`` products ``2 m n k`` and as many
    QR decompositions.

    >>> import torch
    >>> A = torch.outer(torch.arange(4.0), torch.ones(3)); Q = range_finder(A, 1, power=0)
    >>> torch.allclose(Q @ (Q.T @ A), A, atol=1e-5)
    True
    """
    Y = sketched(A, k, sketch, seed)
    for _ in range(power):
        Z = orthonormal(product(A.mT, orthonormal(Y)))
        Y = product(A, Z)
    return orthonormal(Y)
