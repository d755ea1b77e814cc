"""Dimension-balanced compression (DBC): the best approximation in a weighted norm."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lehr.base.errors import SettingError
from lehr.base.tensors import in_full
from lehr.lowrank.decomposition import Pair, truncated

__all__ = ["Balance", "balanced_pair", "row_scale"]

Balance = Literal["none", "row_sum", "row_norm", "activation"]

THRESHOLD = 1e-6
"""The least size of a row's sum in the guide's balance."""
FLOOR = 1e-3
"""The least norm of a row, relative to the root mean square over rows."""
DAMPING = 1e-4
"""What is added to the diagonal of a covariance, relative to its mean."""


def balanced_pair(A: Tensor, rank: int, *, balance: Balance = "none", covariance: Tensor | None = None) -> Pair:
    """Return two factors of rank ``rank`` of a matrix (m, n), the best in the norm that ``balance`` weighs.

    - "none": the truncated SVD, the best in the Frobenius norm (Eckart and Young 1936);
    - "row_norm": ``D SVD_r(D^-1 A)`` with D the L2 norms of the rows: each row's relative error counts alike;
    - "activation": minimizes ``||(A - A') C^(1/2)||_F``, the mean squared error of the layer's output, for the
      second moment C (n, n) of its input: ``SVD_r(A L) L^-1`` with ``C = L L^T`` (ASVD and SVD-LLM, arXiv 2403.07378);
    - "row_sum": the guide's balance, D the signed sums of the rows. For comparison: the rows of a gradient behind a
      LayerNorm sum to about 0, and D then only amplifies noise.

    In float32 at least, exact SVD: for use once, as at a switch. Raises SettingError for a rank or a covariance that
    does not fit.

    >>> A = torch.outer(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0]))
    >>> pair = balanced_pair(A, 1, balance="row_norm"); torch.allclose(pair.left @ pair.right.T, A)
    True
    """
    m, n = A.shape
    if not 1 <= rank <= min(m, n):
        raise SettingError(f"rank={rank} of a {m}x{n} matrix; use 1..{min(m, n)}")
    if (balance == "activation") != (covariance is not None):
        raise SettingError(
            f"balance={balance!r} with covariance {'given' if covariance is not None else 'missing'}; "
            "the balance 'activation' needs it, and no other takes it"
        )
    matrix = in_full(A)
    if balance == "activation":
        assert covariance is not None
        return _activation(matrix, rank, covariance)
    scale = row_scale(matrix, balance)
    left, right = truncated(matrix / scale, rank)
    return Pair(left * scale, right)


def row_scale(A: Tensor, balance: Balance, *, threshold: float = THRESHOLD) -> Tensor:
    """Return what the rows of a matrix (m, n) are divided by, (m, 1), for every balance but "activation".

    ``threshold`` is the least size of a row's sum; norms have a floor relative to their root mean square instead.

    >>> A = torch.tensor([[3.0, 4.0], [0.5, -0.5]])
    >>> row_scale(A, "row_norm").flatten(), row_scale(A, "row_sum").flatten()
    (tensor([5.0000, 0.7071]), tensor([7.0000e+00, 1.0000e-06]))
    """
    if balance == "row_norm":
        norms = torch.linalg.vector_norm(A, dim=1, keepdim=True)
        floor: Tensor = FLOOR * norms.square().mean().sqrt() + torch.finfo(A.dtype).tiny
        return torch.maximum(norms, floor)
    if balance == "row_sum":
        sums = A.sum(dim=1, keepdim=True)
        return torch.where(sums.abs() < threshold, torch.where(sums < 0, -threshold, threshold), sums)
    return A.new_ones(A.shape[0], 1)


def _activation(A: Tensor, rank: int, covariance: Tensor) -> Pair:
    n = A.shape[1]
    if covariance.shape != (n, n):
        raise SettingError(f"covariance of shape {tuple(covariance.shape)} for {n} inputs; use ({n}, {n})")
    moment = covariance.double()
    damping = (DAMPING * moment.diagonal().mean()).clamp_min(torch.finfo(torch.float32).tiny)  # no inputs at all yet
    damped = moment + damping * torch.eye(n, dtype=torch.float64, device=moment.device)
    lower = torch.linalg.cholesky(damped)
    left, right = truncated(A.double() @ lower, rank)
    return Pair(left.to(A.dtype), torch.linalg.solve_triangular(lower.mT, right, upper=True).to(A.dtype))
