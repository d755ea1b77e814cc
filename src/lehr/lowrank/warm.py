"""One pass from the basis of an earlier result."""

from __future__ import annotations

import torch
from torch import Tensor

from lehr.lowrank.orthonormal import inverse_of_triangular, orthonormal, product, spectrum_of_gram, thin_svd

__all__ = ["warm_pass"]

CANCELS = 1000.0
"""How far rounding may be amplified by cancellation: 1000 units of float32 are 6e-5 of the largest singular value.

U and V are orthonormal all the same, since the Gram matrices are those of the rounded products."""


def warm_pass(A: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``U, S, V`` with ``U diag(S) V^T = Q Q^T A`` for ``Q = orth(A basis)``; A (..., m, n), basis (..., n, k).

    Two products with A, as in PowerSGD (Vogels et al. 2019, arXiv 1905.13727). Where the basis nearly fits, the columns
    of ``Y = A basis`` are nearly orthogonal, and ``Q = Y R^-1`` need not be formed: with ``Y^T Y = R^T R`` and
    ``Z = A^T Y``, the eigenvectors X of ``R^-T Z^T Z R^-1`` give ``U = Y R^-1 X`` and ``V = Z R^-1 X / S``, from two
    small Gram matrices in float64. The sum of ``|y_i| |(R^-1 X)_ij|`` says how much cancellation amplifies rounding;
    where that is too much, and on other devices, Q is formed.

    >>> A = torch.diag(torch.tensor([3.0, 2.0, 1.0])); U, S, V = warm_pass(A, torch.eye(3)[:, :2]); S
    tensor([3., 2.])
    """
    Y = product(A, basis)
    if Y.device.type == "cpu" and Y.dtype == torch.float32:
        Z = product(A.mT, Y)
        wide_Y, wide_Z = Y.double(), Z.double()
        gram = wide_Y.mT @ wide_Y
        upper, failed = torch.linalg.cholesky_ex(gram, upper=True)
        if not bool(failed.any()):
            inverse = inverse_of_triangular(upper)
            S, X = spectrum_of_gram(inverse.mT @ (wide_Z.mT @ wide_Z) @ inverse)
            to_U = inverse @ X
            lengths = gram.diagonal(dim1=-2, dim2=-1).sqrt().unsqueeze(-2)
            if bool((lengths @ to_U.abs()).amax() < CANCELS):
                V = product(wide_Z, to_U / S.unsqueeze(-2)).float()
                return product(wide_Y, to_U).float(), S.float(), V
    Q = orthonormal(Y)
    V, S, X = thin_svd(product(A.mT, Q))
    return Q @ X, S, V
