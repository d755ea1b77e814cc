"""Orthonormal bases and small singular value decompositions of matrices with few columns."""

from __future__ import annotations

import torch
from torch import Tensor

from lehr.base.seeds import generator

__all__ = ["cholesky_qr2", "inverse_of_triangular", "orthonormal", "product", "spectrum_of_gram", "thin_svd"]

DROWNS = 1e-5
"""Shares of a singular value or a column below this drown in the rounding of their squares in float64."""


def orthonormal(Y: Tensor) -> Tensor:
    """Return an orthonormal basis of the columns of Y (..., m, k), m >= k; completed where the columns depend.

    By Householder QR, which LAPACK makes of one matrix after another. A batch in single precision on a CPU therefore by
    ``Y R^-1`` with ``Y^T Y = R^T R`` in float64, in a third of the time, as long as each column has at least 1e-5 of
    its length outside the span of those before it. On CUDA, where such a test would wait, by `cholesky_qr2`.

    >>> Q = orthonormal(torch.tensor([[2.0, 2.0], [0.0, 1.0], [0.0, 0.0]])); Q.abs()
    tensor([[1., 0.],
            [0., 1.],
            [0., 0.]])
    """
    if Y.device.type == "cuda":
        return cholesky_qr2(Y)
    if Y.ndim > 2 and Y.device.type == "cpu" and Y.dtype == torch.float32:
        wide = Y.double()
        gram = wide.mT @ wide
        upper, failed = torch.linalg.cholesky_ex(gram, upper=True)
        outside = upper.diagonal(dim1=-2, dim2=-1).square() > DROWNS**2 * gram.diagonal(dim1=-2, dim2=-1)
        if bool(((failed == 0) & outside.all(dim=-1)).all()):
            return product(wide, inverse_of_triangular(upper)).float()
    basis: Tensor = torch.linalg.qr(Y).Q
    return basis


def inverse_of_triangular(upper: Tensor) -> Tensor:
    """Return the inverse of upper triangular matrices (..., k, k).

    >>> inverse_of_triangular(torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
    tensor([[0.5000, 0.0000],
            [0.0000, 0.2500]])
    """
    identity = torch.eye(upper.shape[-1], dtype=upper.dtype, device=upper.device).expand_as(upper)
    inverse: Tensor = torch.linalg.solve_triangular(upper, identity, upper=True)
    return inverse


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
    """Return ``U, S, X`` with ``Y = U diag(S) X^T``, of Y (..., m, k), m >= k.

    In single precision on a CPU by the eigenvectors X of ``Y^T Y`` in float64, and ``U = Y X / S``, as long as no
    singular value is below 1e-5 of the largest one: the squares of those drown in rounding. Else by QR and the SVD of
    its factor R, which takes half as long again.

    >>> U, S, X = thin_svd(torch.tensor([[0.0, 3.0], [2.0, 0.0], [0.0, 0.0]])); S
    tensor([3., 2.])
    """
    if Y.device.type == "cpu" and Y.dtype == torch.float32:
        wide = Y.double()
        S, X = spectrum_of_gram(wide.mT @ wide)
        if bool((S[..., -1] > DROWNS * S[..., 0]).all()):  # false of NaN too: a square that rounding made negative
            return product(wide, X / S.unsqueeze(-2)).float(), S.float(), X.float()
    if Y.device.type == "cuda":
        Q = cholesky_qr2(Y)
        R = Q.mT @ Y
    else:
        Q, R = torch.linalg.qr(Y)
    U, S, Vh = torch.linalg.svd(R)
    return Q @ U, S, Vh.mT


def spectrum_of_gram(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return the singular values and the right vectors of what has this Gram matrix (..., k, k), largest first.

    >>> spectrum_of_gram(torch.diag(torch.tensor([4.0, 9.0])))[0]
    tensor([3., 2.])
    """
    squares, vectors = torch.linalg.eigh(gram)
    return squares.flip(-1).sqrt(), vectors.flip(-1)


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return ``left @ right``, column by column in memory: MKL's products of few columns are up to 4 times as fast so.

    >>> product(torch.ones(3, 2), torch.ones(2, 1)).stride()
    (1, 3)
    """
    return (right.mT @ left.mT).mT
