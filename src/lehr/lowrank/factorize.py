"""Low-rank factorization of matrices: exact for small ones, randomized else, warm-started where a basis is at hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lehr.base.errors import SettingError
from lehr.base.tensors import in_full
from lehr.lowrank.decomposition import Decomposition
from lehr.lowrank.gram import gram_basis
from lehr.lowrank.orthonormal import orthonormal, product, thin_svd
from lehr.lowrank.range_finder import range_finder
from lehr.lowrank.sketch import Sketch
from lehr.lowrank.spectrum import energy_rank
from lehr.lowrank.warm import warm_pass

__all__ = ["Method", "factorize"]

Method = Literal["auto", "exact", "range", "gram"]

SMALL = 64
"""A matrix with a side up to this, and not long, is decomposed exactly: it takes no longer."""
LONG = 32768
"""Elements up to which a matrix with a small side is not long."""
TALL = 8
"""From this ratio of the sides on a Gram matrix can be the fastest way,"""
GRAM = 4
"""where the width is at least one part in so many of the short side."""
SAFE = (1e-18, 1e18)
"""Frobenius norms squared at which no product of three leaves the range of float32."""
CANCELS = 100
"""Below this many units of rounding, the squared residual is not taken from a difference of squares."""


class _Factors(NamedTuple):
    """The result before it is cut to a rank: (..., m, k), (..., k), (..., n, k)."""

    U: Tensor
    S: Tensor
    V: Tensor
    method: str


class _Plan(NamedTuple):
    """What to do, and with which settings."""

    method: Method
    power: int
    oversample: int
    sketch: Sketch
    seed: int


@torch.no_grad()
def factorize(
    A: Tensor,
    *,
    rank: int | None = None,
    energy: float | None = None,
    power: int = 1,
    oversample: int = 10,
    start: Tensor | Decomposition | None = None,
    method: Method = "auto",
    sketch: Sketch = "gaussian",
    seed: int = 0,
) -> Decomposition:
    """Return ``A ~ U diag(S) V^T`` of the given rank, or of the smallest rank that keeps a share of the energy.

    A is a matrix (m, n), or a batch of them (..., m, n), which is worked on as one; on any device. Exactly one of
    ``rank`` and ``energy``: with a share such as 0.95, the rank is the smallest one whose kept part of the true
    ``||A||_F^2`` reaches it, in a batch the largest that any of them needs.

    - "exact": the singular value decomposition (Eckart and Young 1936);
    - "range": the randomized range finder with ``power`` power iterations (Halko et al. 2011, arXiv 0909.4061);
    - "gram": the range finder with its power iterations, at least 3, on the Gram matrix of the short side;
    - with ``start``, an earlier result for nearly the same matrix or any basis (..., n, k) of its right directions,
      one pass ``Q = orth(A V)``, two products in all, as in PowerSGD (Vogels et al. 2019, arXiv 1905.13727);
    - "auto": exact for sides up to 64 that are not long and for ranks of about half the side, "gram" for high ranks of
      long matrices, and "range" else.

    ``oversample`` directions beside the rank are searched for, so that the last of the kept ones are good too; the
    width is made a multiple of 8, downwards where at least half of them remain. At a tenth of the rank the error is up
    to 1.05 times the optimum; at a fifth to nearly half of it, on flat spectra, about 1.10, and 1.04 with ``power=2``.

    16 bits are computed and returned in float32, since orthonormal columns need its digits and singular values its
    range; float64 stays. Any scale is fine. A matrix that is not finite is flagged in `Decomposition.finite`, and its
    factors are NaN; the others of its batch are not touched. The draws follow from ``seed`` alone, and the global
    generator is left as it is. Nothing is read back from an accelerator, apart from what `torch.linalg` does itself,
    and the rank where ``energy`` asks for it. Raises SettingError for settings that do not fit the matrix.

    >>> A = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) @ torch.ones(4, 100).tril()
    >>> found = factorize(A, rank=4); found.method, bool(found.residual < 1e-3 * A.norm())
    ('range', True)
    >>> factorize(A, energy=0.5).rank, factorize(1.01 * A, rank=4, start=found).method
    (1, 'warm')
    """
    basis = start.basis if isinstance(start, Decomposition) else start
    plan = _Plan(method, power, oversample, sketch, seed)
    _check(A, rank, energy, basis, plan)
    full = in_full(A)
    basis = basis.to(full.dtype) if basis is not None else None
    total = _total(full)
    if _is_safe(total):
        return _cut(full, _factors(full, rank, energy, total, basis, plan), rank, energy, total)
    largest = torch.linalg.vector_norm(full, float("inf"), dim=(-2, -1))
    finite = torch.isfinite(largest)
    scale = torch.where(finite & (largest > 0), largest, torch.ones_like(largest))
    scaled = torch.where(finite[..., None, None], full / scale[..., None, None], torch.zeros_like(full))
    total = _total(scaled)
    found = _restored(
        _cut(scaled, _factors(scaled, rank, energy, total, basis, plan), rank, energy, total), scale, finite
    )
    if found.method != "warm":
        return found
    assert basis is not None  # what says nothing about directions leaves those of the start
    return replace(found, basis=torch.where((total > 0)[..., None, None], found.basis, basis))


def _check(A: Tensor, rank: int | None, energy: float | None, basis: Tensor | None, plan: _Plan) -> None:
    if A.ndim < 2 or not A.numel() or not A.is_floating_point():
        raise SettingError(f"A of shape {tuple(A.shape)} and {A.dtype}; give real matrices (..., m, n) with elements")
    m, n = A.shape[-2:]
    if (rank is None) == (energy is None):
        raise SettingError(f"rank={rank} and energy={energy}; give exactly one of them")
    if rank is not None and not 1 <= rank <= min(m, n):
        raise SettingError(f"rank={rank} of a {m}x{n} matrix; use 1..{min(m, n)}")
    if energy is not None and not 0 < energy <= 1:
        raise SettingError(f"energy={energy:g} is not a share; use more than 0 and at most 1, such as 0.95")
    if plan.method not in get_args(Method) or plan.sketch not in get_args(Sketch):
        raise SettingError(
            f"method={plan.method!r}, sketch={plan.sketch!r}; the methods are {', '.join(get_args(Method))}, the "
            f"sketches {', '.join(get_args(Sketch))}"
        )
    if plan.power < 0 or plan.oversample < 0:
        raise SettingError(f"power={plan.power}, oversample={plan.oversample}; use 0 or more")
    if basis is None:
        return
    if plan.method != "auto":
        raise SettingError(f"start with method={plan.method!r}; a start goes with method='auto' only")
    fits = basis.ndim >= 2 and basis.shape[-2] == n and (rank or 1) <= basis.shape[-1] <= min(m, n)
    if not fits or basis.shape[:-2] not in ((), A.shape[:-2]):
        raise SettingError(
            f"start of shape {tuple(basis.shape)} for rank {rank} of matrices {tuple(A.shape)}; use ({n}, k) with k "
            f"from {rank or 1} to {min(m, n)}, one for all or one for each matrix"
        )
    if basis.device.type == "cpu" and not torch.linalg.vector_norm(basis, math.inf).isfinite():
        raise SettingError("the start is not finite; start from the basis of a finite result, or leave it out")


def _total(A: Tensor) -> Tensor:
    """Return ``||A||_F^2`` in float64; over the rows in A's own precision, whose errors then average out."""
    rows = torch.linalg.vector_norm(A, dim=-1)
    norm: Tensor = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float64)
    return norm.square_()


def _is_safe(total: Tensor) -> bool:
    """Whether everything is finite, and of a scale that needs no care; read where reading costs nothing."""
    return total.device.type == "cpu" and all(SAFE[0] < value < SAFE[1] for value in total.reshape(-1).tolist())


def _factors(
    A: Tensor, rank: int | None, energy: float | None, total: Tensor, basis: Tensor | None, plan: _Plan
) -> _Factors:
    """Return factors that are wide enough for the rank or the share of energy."""
    m, n = A.shape[-2:]
    if basis is not None:
        found = _Factors(*warm_pass(A, basis), "warm")
        if energy is None or _reaches(found, energy, total):
            return found
    if m < n:
        other = _factors(A.mT, rank, energy, total, None, plan)
        return _Factors(other.V, other.S, other.U, other.method)
    if rank is not None:
        return _cold(A, _width(rank, plan.oversample, n), plan)
    assert energy is not None
    k = _width(-(-n // 8), plan.oversample, n)
    while True:
        found = _cold(A, k, plan)
        if found.S.shape[-1] == n or _reaches(found, energy, total):
            return found
        k = min(2 * k, n)


def _reaches(found: _Factors, energy: float, total: Tensor) -> bool:
    return bool((found.S.double().square().sum(dim=-1) >= energy * total).all())


def _width(rank: int, oversample: int, most: int) -> int:
    """Return the columns to work with: products are up to 1.8 times as fast where they are a multiple of 8."""
    wide = rank + oversample
    down = wide // 8 * 8
    return min(most, wide if not oversample else down if down >= rank + (oversample + 1) // 2 else down + 8)


def _cold(A: Tensor, k: int, plan: _Plan) -> _Factors:
    """Return k singular triplets of a tall matrix, of fewer where it has fewer columns."""
    m, n = A.shape[-2:]
    method = plan.method
    if method == "auto":
        exact = 2 * k >= n or (n <= SMALL and m * n <= LONG)
        method = "exact" if exact else "gram" if m >= TALL * n and GRAM * k >= n else "range"
    if method == "exact":
        U, S, Vh = torch.linalg.svd(A, full_matrices=False)
        return _Factors(U, S, Vh.mT, method)
    if method == "gram":
        Z = gram_basis(A, k, power=plan.power, sketch=plan.sketch, seed=plan.seed)
        Q = orthonormal(product(A, Z))
    else:
        Q = range_finder(A, k, power=plan.power, sketch=plan.sketch, seed=plan.seed)
    V, S, X = thin_svd(product(A.mT, Q))
    return _Factors(Q @ X, S, V, method)


def _cut(A: Tensor, found: _Factors, rank: int | None, energy: float | None, total: Tensor) -> Decomposition:
    """Return the factors at their rank, with what they keep and leave."""
    if rank is None:
        assert energy is not None
        rank = int(energy_rank(found.S, energy, total).max())
    U, S, V = found.U[..., :rank], found.S[..., :rank], found.V[..., :rank]
    kept = torch.linalg.vector_norm(S, dim=-1, dtype=torch.float64)
    left = torch.addcmul(total, kept, kept, value=-1).clamp_min_(0)
    close = left < CANCELS * torch.finfo(S.dtype).eps * total
    if close.device.type != "cpu" or bool(close.any()):
        left = torch.where(close, _total(A - (U * S.unsqueeze(-2)) @ V.mT), left)
    return Decomposition(
        U=U,
        S=S,
        V=V,
        basis=found.V,
        energy=torch.where(total > 0, 1 - left / total, 1.0).to(S.dtype),
        residual=left.sqrt().to(S.dtype),
        finite=torch.isfinite(total),
        method=found.method,
    )


def _restored(found: Decomposition, scale: Tensor, finite: Tensor) -> Decomposition:
    """Return the decomposition of a scaled matrix at the matrix's own scale; NaN where that was not finite."""
    flag = torch.where(finite, 1.0, torch.nan).to(scale.dtype)
    return replace(
        found,
        U=found.U * flag[..., None, None],
        S=found.S * (scale * flag)[..., None],
        V=found.V * flag[..., None, None],
        energy=found.energy * flag,
        residual=found.residual * scale * flag,
        finite=finite,
    )
