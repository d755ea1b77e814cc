"""Changing the rank of two factors: turned so that their columns are in order, then shrunk or grown for real."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lehr.base.errors import SettingError
from lehr.base.tensors import in_full

__all__ = ["Turned", "grown", "level", "level_by_energy", "reorthogonalized", "shrunk"]


class Turned(NamedTuple):
    """Factors ``U T_u`` and ``V T_v`` of the same product, or of what is left of it."""

    U: Tensor
    """(m, k): the left singular vectors times the roots of the singular values."""
    V: Tensor
    """(n, k): the right ones, likewise."""
    T_u: Tensor
    """(r, k), in float32 at least."""
    T_v: Tensor
    """(r, k), likewise."""
    S: Tensor
    """Singular values (k,) of the product, descending, in float32 at least."""


@torch.no_grad()
def reorthogonalized(U: Tensor, V: Tensor) -> Turned:
    """Return the factors of ``U V^T`` whose columns are orthogonal, equally long in both, and ordered by strength.

    With ``U = Q_u R_u``, ``V = Q_v R_v`` and the singular value decomposition ``P S Q^T`` of the r x r core
    ``R_u R_v^T``:

        U' = Q_u P S^(1/2) = U T_u,   T_u = R_v^T Q S^(-1/2)
        V' = Q_v Q S^(1/2) = V T_v,   T_v = R_u^T P S^(-1/2)

    What an optimizer keeps per factor turns along: the gradient of U is ``G V`` for the gradient G of the product, so
    first moments are ``m_U T_v`` and ``m_V T_u``; second moments are about ``v_U (T_v * T_v)`` and ``v_V (T_u * T_u)``.

    Where the product has a lower rank than r, the last columns are zero in U', V' and both T: shrink them away, since
    a pair of zero columns gets no gradient. Not finite factors give NaN. Cost: two QR of the factors, one r x r SVD.

    Raises SettingError where the factors do not fit.

    >>> U, V = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.eye(2)
    >>> turned = reorthogonalized(U, V); turned.S.round(decimals=4), torch.allclose(turned.U @ turned.V.T, U @ V.T)
    (tensor([3., 1.]), True)
    """
    if U.ndim != 2 or V.ndim != 2 or U.shape[1] != V.shape[1] or U.shape[1] > min(len(U), len(V)):
        raise SettingError(
            f"factors of the shapes {tuple(U.shape)} and {tuple(V.shape)}; use (m, r) and (n, r), r at most min(m, n)"
        )
    wide = torch.promote_types(in_full(U).dtype, in_full(V).dtype)
    a, b = (factor.detach().to(wide).abs().amax() for factor in (U, V))
    a, b = (torch.where(size > 0, size, torch.ones_like(size)) for size in (a, b))
    if not (a + b).isfinite():
        square = torch.full((U.shape[1], U.shape[1]), torch.nan, dtype=wide, device=U.device)
        return Turned(U * torch.nan, V * torch.nan, square, square.clone(), square[0].clone())
    # at the size of 1, so that nothing leaves the range of the type
    Q_u, R_u = torch.linalg.qr(U.to(wide) / a)
    Q_v, R_v = torch.linalg.qr(V.to(wide) / b)
    P, values, Qh = torch.linalg.svd(R_u @ R_v.mT)
    rounding = len(values) * torch.finfo(wide).eps * torch.linalg.matrix_norm(R_u) * torch.linalg.matrix_norm(R_v)
    values = torch.where(values > rounding, values, torch.zeros_like(values))
    root, inverse = values.sqrt(), torch.where(values > 0, values.rsqrt(), torch.zeros_like(values))
    T_u, T_v = R_v.mT @ Qh.mT * inverse, R_u.mT @ P * inverse
    size, ratio = a.sqrt() * b.sqrt(), b.sqrt() / a.sqrt()
    new_U, new_V = Q_u @ P * (root * size), Q_v @ Qh.mT * (root * size)
    return Turned(new_U.to(U.dtype), new_V.to(V.dtype), T_u * ratio, T_v / ratio, values * size * size)


def shrunk(U: Tensor, V: Tensor, rank: int) -> Turned:
    """Return factors of ``rank`` columns that are nearest to ``U V^T``: it loses the squares of the last values of S.

    That is the least possible (Eckart and Young 1936); cutting off the last columns of unordered factors loses more.
    Raises SettingError unless 1 <= rank <= r.

    >>> shrunk(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.eye(2), 1).S
    tensor([3.])
    """
    if not 1 <= rank <= U.shape[1]:
        raise SettingError(f"rank={rank} to shrink factors of rank {U.shape[1]} to; use 1..{U.shape[1]}")
    turned = reorthogonalized(U, V)
    return Turned(turned.U[:, :rank], turned.V[:, :rank], turned.T_u[:, :rank], turned.T_v[:, :rank], turned.S[:rank])


@torch.no_grad()
def grown(
    U: Tensor, V: Tensor, rank: int, *, gradient: Tensor | None = None, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Return factors of ``rank`` columns with the same product: new directions in U, each with zeros beside it in V.

    The new columns of U are the first left singular vectors of ``(I - P_U) G (I - P_V)``: of the gradient G (m, n) of
    the product, what no change of the present factors can follow. They are as long as the columns of U are on average
    (root of the mean square; 1 where U is zero), so that the zeros move at the rate that their neighbours do. Without
    a gradient, and where it has too few directions, they are random ones outside the span of U, from ``generator``.

    Raises SettingError for a rank that is no larger or over min(m, n), a gradient of another shape or not finite, and
    when directions have to be drawn and there is no generator.

    >>> U, V, G = torch.tensor([[1.0], [0.0]]), torch.tensor([[2.0], [0.0]]), torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    >>> U, V = grown(U, V, 2, gradient=G); U.abs(), V
    (tensor([[1., 0.],
            [0., 1.]]), tensor([[2., 0.],
            [0., 0.]]))
    """
    m, n, r = len(U), len(V), U.shape[1]
    if not r < rank <= min(m, n):
        raise SettingError(f"rank={rank} to grow factors of rank {r} of a {m}x{n} matrix to; use {r + 1}..{min(m, n)}")
    full = in_full(U)
    Q_u = torch.linalg.qr(full).Q
    new = full.new_zeros(m, 0)
    if gradient is not None:
        if gradient.shape != (m, n) or not gradient.isfinite().all():
            raise SettingError(f"a gradient of shape {tuple(gradient.shape)}; use a finite one of the shape ({m}, {n})")
        Q_v = torch.linalg.qr(in_full(V)).Q
        outside = _outside(Q_u, in_full(gradient))
        outside = _outside(Q_v, outside.mT).mT
        left, values, _ = torch.linalg.svd(outside, full_matrices=False)
        rounding = max(m, n) * torch.finfo(values.dtype).eps * torch.linalg.matrix_norm(in_full(gradient))
        heard = int((values > rounding).sum())
        new = left[:, : min(heard, rank - r)]
    if (missing := rank - r - new.shape[1]) > 0:
        if generator is None:
            raise SettingError(f"{missing} new directions have to be drawn; give a generator, or a gradient with more")
        noise = torch.randn(m, missing, generator=generator, device=generator.device).to(full)
        new = torch.cat([new, _outside(torch.cat([Q_u, new], dim=1), noise)], dim=1)
    new = torch.linalg.qr(_outside(Q_u, new)).Q
    length = float(torch.linalg.matrix_norm(full)) / r**0.5 or 1.0
    return torch.cat([U, (new * length).to(U.dtype)], dim=1), torch.cat([V, V.new_zeros(n, rank - r)], dim=1)


def _outside(Q: Tensor, columns: Tensor) -> Tensor:
    """Return the columns without what lies in the span of the orthonormal Q; twice, since once leaves rounding."""
    for _ in range(2):
        columns = columns - Q @ (Q.mT @ columns)
    return columns


def level(time: float, levels: Sequence[tuple[float, float]]) -> float:
    """Return the share of ranks at ``time``: that of the last of ``levels``, (from when, share), that has begun.

    Time is in whatever unit the levels are: steps, epochs, shares of a run. Few levels mean few shapes.
    Raises SettingError for levels that do not begin at 0 or are not in order, and shares outside (0, 1].

    >>> guide = [(0, 0.20), (10, 0.15), (30, 0.10)]
    >>> [level(epoch, guide) for epoch in (0, 9, 10, 29, 30, 49)]
    [0.2, 0.2, 0.15, 0.15, 0.1, 0.1]
    """
    starts = [start for start, _ in levels]
    if not levels or starts[0] != 0 or starts != sorted(set(starts)) or not all(0 < share <= 1 for _, share in levels):
        raise SettingError(
            f"levels {list(levels)}; use (from when, share) pairs, the first from 0, later ones in order, shares in "
            "(0, 1], such as [(0, 0.2), (10, 0.15), (30, 0.1)]"
        )
    return [share for start, share in levels if start <= max(time, 0)][-1]


def level_by_energy(needed: int, current: int, ranks: Sequence[int], *, shrink: float = 0.7, grow: float = 0.9) -> int:
    """Return which of ``ranks`` to take next, one step up or down at most, for factors that need ``needed`` directions.

    ``needed`` is `energy_rank` of the singular values of the product, for a share such as 0.95. Up when more than
    ``grow`` of the current directions are needed; down when at most ``shrink`` of those one step down would be. A
    shrink below grow keeps it from going up and down: neither change makes the other one due.

    Raises SettingError unless the ranks ascend, ``current`` is one of them, and 0 < shrink < grow < 1.

    >>> [level_by_energy(needed, 32, [16, 32, 64]) for needed in (10, 20, 30)]
    [16, 32, 64]
    """
    if list(ranks) != sorted(set(ranks)) or current not in ranks or not 0 < shrink < grow < 1:
        raise SettingError(
            f"rank {current} of {list(ranks)}, shrink={shrink:g}, grow={grow:g}; use ascending ranks that hold the "
            "current one, and 0 < shrink < grow < 1"
        )
    place = list(ranks).index(current)
    if needed > grow * current:
        return ranks[min(place + 1, len(ranks) - 1)]
    if place and needed <= shrink * ranks[place - 1]:
        return ranks[place - 1]
    return current
