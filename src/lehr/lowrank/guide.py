"""The guide's own recipe as it is printed: a baseline that tests and benchmarks hold against `factorize`. Not for use.

Its random projection never looks at the matrix, so that a tenth of the rank keeps about a tenth of the energy of any
matrix; its singular values go in twice, so that twice the matrix gives four times the result; and below a side of 20
trick 3 keeps no direction at all.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["dbc", "dbc_dac", "energy_count", "method_1", "power_eigh", "rank_of", "second_round", "sparse_projection"]

KEPT = 0.95
"""Share of the sketch's energy that tricks 1 and 4 keep."""
FEW = 50
"""Trick 3 iterates up to this rank."""
COMPANION = 0.1
"""Weight of the residual."""


def rank_of(A: Tensor, ratio: float) -> int:
    """Return the guide's rank ``max(1, int(min(m, n) ratio))``.

    >>> rank_of(torch.ones(256, 512), 0.1)
    25
    """
    return max(1, int(min(A.shape) * ratio))


def method_1(A: Tensor, rank: int, own: torch.Generator) -> Tensor:
    """Return the guide's approximation of a matrix (m, n), dense: projection and eigendecomposition.

    ``Q = orth(N(0, 1)), Y = A Q, Y^T Y = W L W^T``; then ``(Y W) sqrt(L) (Q W)^T``, although ``Y W`` holds ``sqrt(L)``.

    >>> A = torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    >>> once, twice = (method_1(c * A, 3, torch.Generator().manual_seed(1)).norm() for c in (1, 2))
    >>> round(float(twice / once), 3)
    4.0
    """
    Q = torch.linalg.qr(torch.randn(A.shape[1], rank, generator=own)).Q
    Y = A @ Q
    values, W = torch.linalg.eigh(Y.T @ Y)
    return _reconstructed(Y, Q, values, W)


def _reconstructed(Y: Tensor, Q: Tensor, values: Tensor, W: Tensor) -> Tensor:
    made: Tensor = (Y @ W) @ torch.diag(values.clamp_min(0).sqrt()) @ (Q @ W).T
    return made


def sparse_projection(n: int, rank: int, own: torch.Generator) -> Tensor:
    """Return trick 2's matrix (n, rank): normal, of which ``min(0.1, 1 / sqrt(rank))`` is kept, over its root.

    >>> round(float((sparse_projection(1000, 25, torch.Generator().manual_seed(0)) != 0).float().mean()), 2)
    0.1
    """
    density = min(0.1, 1 / rank**0.5)
    kept = torch.rand(n, rank, generator=own) > 1 - density
    return torch.where(kept, torch.randn(n, rank, generator=own) / density**0.5, 0.0)


def power_eigh(C: Tensor, k: int, own: torch.Generator, *, iterations: int = 20) -> tuple[Tensor, Tensor]:
    """Return trick 3's eigenvalues (k) and eigenvectors (r, k) of a symmetric matrix, by orthogonal iteration.

    >>> values, _ = power_eigh(torch.diag(torch.tensor([4.0, 1.0])), 1, torch.Generator().manual_seed(0)); values
    tensor([4.])
    """
    V = torch.linalg.qr(torch.randn(len(C), k, generator=own)).Q
    for _ in range(iterations):
        V = torch.linalg.qr(C @ V).Q
    return (V * (C @ V)).sum(dim=0), V


def energy_count(values: Tensor) -> int:
    """Return the count of tricks 1 and 4: the fewest descending eigenvalues with 95 % of *their own* sum.

    >>> energy_count(torch.tensor([70.0, 15.0, 7.0, 3.0, 5.0]))
    4
    """
    total = values.cumsum(dim=0)
    return int(torch.searchsorted(total, KEPT * total[-1:]).item()) + 1 if len(values) else 0


def second_round(A: Tensor, rank: int, own: torch.Generator) -> Tensor:
    """Return the guide's approximation with tricks 1 to 4: sparse projection, power iteration, energy stop.

    >>> bool((second_round(torch.ones(12, 12), 1, torch.Generator().manual_seed(0)) == 0).all())
    True
    """
    Q = torch.linalg.qr(sparse_projection(A.shape[1], rank, own)).Q
    Y = A @ Q
    C = Y.T @ Y
    if rank <= FEW:
        values, W = power_eigh(C, int(0.8 * rank), own)
    else:
        values, W = torch.linalg.eigh(C)
    values, order = values.sort(descending=True)
    k = energy_count(values)
    values, W = values[:k], W[:, order[:k]]
    return _reconstructed(Y, Q, values, W)


def dbc(A: Tensor, rank: int, own: torch.Generator, *, threshold: float = 1e-6) -> Tensor:
    """Return the guide's balanced compression: rows divided by their sums, `method_1`, and multiplied again.

    >>> dbc(torch.ones(4, 4), 1, torch.Generator().manual_seed(0)).shape
    torch.Size([4, 4])
    """
    return dbc_dac(A, own, ranks=(rank, 1), threshold=threshold, iterations=0)


def dbc_dac(
    A: Tensor, own: torch.Generator, *, ranks: tuple[int, int], threshold: float = 1e-6, iterations: int = 1
) -> Tensor:
    """Return `dbc` of ``ranks[0]``, and ``iterations`` times a tenth of the approximated residual, of ``ranks[1]``.

    >>> dbc_dac(torch.ones(4, 4), torch.Generator().manual_seed(0), ranks=(2, 1)).shape
    torch.Size([4, 4])
    """
    sums = A.sum(dim=1, keepdim=True)
    sums = torch.where(sums.abs() < threshold, torch.where(sums < 0, -threshold, threshold), sums)
    balanced = A / sums
    made = method_1(balanced, ranks[0], own)
    residual = balanced - made
    for _ in range(iterations):
        part = COMPANION * method_1(residual, ranks[1], own)
        made, residual = made + part, residual - part
    return made * sums
