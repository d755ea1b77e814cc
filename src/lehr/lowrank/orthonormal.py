"""Orthonormal bases and small singular value decompositions of matrices with few columns."""

from __future__ import annotations

import torch
from torch import Tensor

from lehr.base.seeds import generator

__all__ = ["cholesky_qr2", "graded_svd", "orthonormal", "thin_svd"]

CANCELS = 50.0
"""How far rounding may be amplified by cancellation: 50 units of float32 are 3e-6."""


def orthonormal(Y: Tensor) -> Tensor:
    """Return an orthonormal basis of the columns of Y (..., m, k), m >= k; completed where the columns depend.

    Householder QR, but `cholesky_qr2` on CUDA, where a QR of few columns leaves the device idle.

    >>> Q = orthonormal(torch.tensor([[2.0, 2.0], [0.0, 1.0], [0.0, 0.0]])); Q.abs()
    tensor([[1., 0.],
            [0., 1.],
            [0., 0.]])
    """
    if Y.device.type == "cuda":
        return cholesky_qr2(Y)
    basis: Tensor = torch.linalg.qr(Y).Q
    return basis


def cholesky_qr2(Y: Tensor) -> Tensor:
    """Return an orthonormal basis of the columns of Y (..., m, k), m >= k, by matrix products alone.

    ``Q = Y R^-1`` with ``Y^T Y = R^T R``, twice, in float64 and with columns scaled to length 1: once in single
    precision fails from a condition of about 3e3 on. A perturbation at the level of rounding makes all columns
    independent first, so that it needs neither a fallback nor a read from the device, even of a matrix of zeros.
    Source: Fukaya et al. 2014, "CholeskyQR2"; the condition, which must stay below about 1e8, is what the
    perturbation bounds in float32; float64 takes Householder QR.

    >>> Q = cholesky_qr2(torch.zeros(5, 2)); torch.allclose(Q.T @ Q, torch.eye(2), atol=1e-6)
    True
    """
    if Y.dtype == torch.float64:
        exact: Tensor = torch.linalg.qr(Y).Q
        return exact
    wide = Y.double()
    lengths: Tensor = torch.linalg.vector_norm(wide, dim=-2, keepdim=True)
    noise = torch.randn(Y.shape[-2:], generator=generator(0, "perturbation"), dtype=torch.float64).to(Y.device)
    level = torch.finfo(Y.dtype).eps / Y.shape[-2] ** 0.5
    basis: Tensor = wide / lengths.clamp_min(torch.finfo(torch.float64).tiny) + level * noise
    for _ in range(2):
        basis = basis / torch.linalg.vector_norm(basis, dim=-2, keepdim=True)
        upper: Tensor = torch.linalg.cholesky_ex(basis.mT @ basis, upper=True).L
        basis = torch.linalg.solve_triangular(upper, basis, upper=True, left=False)
    return basis.to(Y.dtype)


def thin_svd(Y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``U, S, X`` with ``Y = U diag(S) X^T``, of Y (..., m, k), m >= k: QR, then the SVD of its factor R.

    >>> U, S, X = thin_svd(torch.tensor([[0.0, 3.0], [2.0, 0.0], [0.0, 0.0]])); S
    tensor([3., 2.])
    """
    if Y.device.type == "cuda":
        Q = cholesky_qr2(Y)
        R = Q.mT @ Y
    else:
        Q, R = torch.linalg.qr(Y)
    U, S, Vh = torch.linalg.svd(R)
    return Q @ U, S, Vh.mT


def graded_svd(Y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `thin_svd` of columns that are nearly sorted and orthogonal already, as a warm start leaves them.

    By the eigenvectors of ``Y^T Y`` in float64, in two thirds of the time, on the CPU. The product of Y with them
    cancels where the columns are not sorted, and makes vectors that are orthonormal to the unit of rounding times
    ``sum_i |y_i| |X_ij| / S_j``; where that is too much, it is `thin_svd`'s work.

    >>> U, S, X = graded_svd(torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]])); S
    tensor([3., 2.])
    """
    if Y.device.type == "cpu" and Y.dtype == torch.float32:
        wide = Y.double()
        gram = wide.mT @ wide
        squares, vectors = torch.linalg.eigh(gram)
        S = squares.flip(-1).sqrt_().unsqueeze(-2)
        X = vectors.flip(-1)
        divided = X / S
        lengths = gram.diagonal(dim1=-2, dim2=-1).sqrt().unsqueeze(-2)
        if bool((lengths @ divided.abs()).amax() < CANCELS):  # false of NaN too: a square that rounding made negative
            return Y @ divided.float(), S.squeeze(-2).float(), X.float()
    return thin_svd(Y)
