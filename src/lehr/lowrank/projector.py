"""Projectors of gradients: a basis of a few directions, what lies in them, and how much is made of what does not.

A gradient is taken as a matrix A (s, l) with its smaller side first, a basis Q (s, r) has orthonormal columns, and the
projection is ``R = Q^T A`` (r, l). Shapes: s smaller side, l larger side (a channel is a column), r rank.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from lehr.base.seeds import generator
from lehr.lowrank.factorize import factorize

__all__ = [
    "Projector",
    "channel_scales",
    "limited",
    "oriented",
    "overlap",
    "power_basis",
    "random_basis",
    "range_basis",
    "refresh",
    "restored",
    "rotated",
    "rotated_squares",
]

Projector = Literal["galore", "random", "power"]
"""Where a basis comes from: the leading directions of a gradient, chance, or one power step from the last basis."""


def oriented(gradient: Tensor) -> Tensor:
    """Return a matrix, or a kernel as the matrix (out, the rest), with its smaller side first; a view.

    >>> oriented(torch.zeros(5, 3)).shape, oriented(torch.zeros(4, 3, 2, 2)).shape
    (torch.Size([3, 5]), torch.Size([4, 12]))
    """
    matrix = gradient.flatten(1)
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def restored(matrix: Tensor, shape: torch.Size) -> Tensor:
    """Return what `oriented` was given, of this shape.

    >>> value = torch.arange(6.0).reshape(3, 2); torch.equal(restored(oriented(value), value.shape), value)
    True
    """
    rows, columns = shape[0], shape[1:].numel()
    return (matrix.mT if rows > columns else matrix).reshape(shape)


def range_basis(A: Tensor, rank: int, *, start: Tensor | None = None, seed: int = 0) -> Tensor:
    """Return the leading left singular vectors of A, ``rank`` of them, by `factorize`: one pass from a ``start``.

    GaLore (Zhao et al. 2024, arXiv 2403.03507) takes the exact ones in their place.

    >>> range_basis(torch.diag(torch.tensor([1.0, 3.0, 2.0])), 2).abs().argmax(dim=0)
    tensor([1, 2])
    """
    return factorize(A.mT, rank=rank, start=start, seed=seed).V.contiguous()


def random_basis(like: Tensor, rank: int, *, seed: int = 0) -> Tensor:
    """Return ``rank`` orthonormal columns whose span is uniformly distributed, for a matrix A (s, l) ``like`` this.

    ``E ||Q^T a||^2 = (r/s) ||a||^2`` for each column a: enough to estimate norms (APOLLO, Zhu et al. 2024,
    arXiv 2412.05270), and not to approximate A. The draw follows from the seed, on the CPU, and so is the same on
    every device.

    >>> basis = random_basis(torch.zeros(6, 9), 2); torch.allclose(basis.T @ basis, torch.eye(2), atol=1e-6)
    True
    """
    drawn = torch.randn(like.shape[0], rank, dtype=like.dtype, generator=generator(seed, "projector"))
    basis: Tensor = torch.linalg.qr(drawn).Q
    return basis.contiguous().to(like.device)


def power_basis(A: Tensor, basis: Tensor) -> Tensor:
    """Return ``orth(A A^T Q)``: one power step from the last basis, by QR.

    Of PowerSGD (Vogels et al. 2019, arXiv 1905.13727) and Dion (Ahn et al. 2025, arXiv 2504.05295). The scale of A
    does not matter.

    >>> A = torch.diag(torch.tensor([3.0, 1.0])); power_basis(A, torch.full((2, 1), 0.5**0.5)).abs()
    tensor([[0.9939],
            [0.1104]])
    """
    largest = torch.linalg.vector_norm(A, float("inf"))
    unit = A / torch.where(largest > 0, largest, 1.0)
    turned: Tensor = torch.linalg.qr(unit @ (unit.mT @ basis)).Q
    return turned.contiguous()


def refresh(A: Tensor, rank: int, projector: Projector, *, last: Tensor | None = None, seed: int = 0) -> Tensor:
    """Return the next basis for A, after the ``last`` one if there is one.

    >>> refresh(torch.eye(4, 6), 2, "random").shape
    torch.Size([4, 2])
    """
    if projector == "random":
        return random_basis(A, rank, seed=seed)
    if projector == "power" and last is not None:
        return power_basis(A, last)
    return range_basis(A, rank, start=last, seed=seed)


def overlap(new: Tensor, old: Tensor) -> Tensor:
    """Return ``||Q'^T Q||_F^2 / r``: 1 for one subspace, r/s on average for two that chance has made.

    Where it stays high, refreshing is wasted (Q-GaLore, Zhang et al. 2024, arXiv 2407.08296).

    >>> overlap(torch.eye(3)[:, :2], torch.eye(3)[:, 1:])
    tensor(0.5000)
    """
    return (new.mT @ old).square().sum() / old.shape[1]


def rotated(moment: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Return a mean of projections (r, l) in the new basis: ``Q'^T Q M``; what the new one lacks is forgotten.

    >>> rotated(torch.tensor([[1.0], [2.0]]), torch.eye(2).flip(1), torch.eye(2)).flatten()
    tensor([2., 1.])
    """
    return (new.mT @ old) @ moment


def rotated_squares(moment: Tensor, new: Tensor, old: Tensor, *, mean: Tensor | None = None) -> Tensor:
    """Return a mean of squared projections in the new basis, as if directions were uncorrelated: ``(Q'^T Q)^2 V``.

    The square is of each element, so that nothing gets negative. With the ``mean`` M (r, l) of the same projections,
    what is uncorrelated is their deviations: ``(Q'^T Q)^2 (V - M^2) + (Q'^T Q M)^2``, which is never less than the
    square of the turned mean (LDAdam, Robert et al. 2024, arXiv 2410.16103).

    >>> turn, M = torch.tensor([[0.6, -0.8], [0.8, 0.6]]), torch.tensor([[1.0], [1.0]])
    >>> rotated_squares(torch.tensor([[1.0], [0.0]]), turn, torch.eye(2)).flatten()
    tensor([0.3600, 0.6400])
    >>> rotated_squares(M.square(), turn, torch.eye(2), mean=M).flatten(), rotated(M, turn, torch.eye(2)).flatten()
    (tensor([1.9600, 0.0400]), tensor([ 1.4000, -0.2000]))
    """
    turn = new.mT @ old
    if mean is None:
        return turn.square() @ moment
    return turn.square() @ (moment - mean.square()).clamp_min(0) + (turn @ mean).square()


def channel_scales(step: Tensor, projected: Tensor, A: Tensor) -> Tensor:
    """Return for each channel of A how much an optimizer has scaled it: ``||N_j|| / ||R_j||`` (1, l).

    Fira scales what lies outside the basis by it (Chen et al. 2024, arXiv 2410.01623), APOLLO the whole gradient. Both
    let a channel explode of which next to nothing is in the basis, since steps such as Adam's have one size whatever
    the gradient's. Here ``||R_j||`` counts as what chance would give it, ``sqrt(r/s) ||A_j||``, where it is less: then
    no channel gets more than Adam would give it without a projection.

    >>> A = torch.tensor([[2.0, 0.0, 0.0], [1.0, 8.0, 0.0]])
    >>> channel_scales(torch.tensor([[3.0, 1.0, 0.0]]), A[:1], A).mul(2**0.5)
    tensor([[2.1213, 0.2500, 0.0000]])
    """
    made, within, of_all = (torch.linalg.vector_norm(M, dim=0, keepdim=True) for M in (step, projected, A))
    size = torch.maximum(within, of_all * math.sqrt(projected.shape[0] / A.shape[0]))
    return torch.where(size == 0, 0.0, made / size)


def limited(part: Tensor, last: Tensor | None, growth: float | None) -> tuple[Tensor, Tensor]:
    """Return ``part``, shortened to ``growth`` times the ``last`` norm where it is longer, and the norm it then has.

    Fira's limiter (arXiv 2410.01623, equation 12). After a norm of 0, or where there is no last one, nothing is
    shortened; without ``growth`` neither.

    >>> part, norm = limited(torch.tensor([3.0, 4.0]), torch.tensor(2.0), 1.25); part, norm
    (tensor([1.5000, 2.0000]), tensor(2.5000))
    """
    norm = torch.linalg.vector_norm(part)
    if last is None or growth is None:
        return part, norm
    most = growth * last
    over = (last > 0) & (norm > most)
    return part * torch.where(over, most / norm, 1.0), torch.where(over, most, norm)
