"""Muon on two factors moves their product as it would move the matrix."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lehr.lowrank import LowRankLinear
from lehr.optim.muon import MatrixMuon, factor_updates, orthogonalized

M, N, R = 24, 16, 6


def draws(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def basis(factor: Tensor) -> Tensor:
    return torch.linalg.qr(factor).Q


def nearest_orthogonal(matrix: Tensor) -> Tensor:
    U, _, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U @ Vh


@pytest.mark.parametrize("spread", [1.0, 1e3])
def test_every_direction_of_the_product_goes_equally_far(spread: float) -> None:
    """Against the same written with orthonormal bases and an exact SVD; whatever the sizes of the columns."""
    columns = torch.logspace(0, -math.log10(spread), R, dtype=torch.float64)
    U, V, momentum = draws(M, R, seed=0) * columns, draws(N, R, seed=1) * columns, draws(M, N, seed=2)
    of_U, of_V = momentum @ V, momentum.T @ U
    change_U, change_V = factor_updates(U, V, of_U, of_V, damping=0.0)
    scale = math.sqrt(M / N / 2)
    through_V = scale * nearest_orthogonal(momentum @ basis(V)) @ basis(V).T
    through_U = scale * basis(U) @ nearest_orthogonal(momentum.T @ basis(U)).T
    for got, exact in ((change_U @ V.T, through_V), (U @ change_V.T, through_U)):
        values = torch.linalg.svdvals(got)[:R] / torch.linalg.svdvals(exact)[:R]
        assert values.min() > 0.6
        assert values.max() < 1.5, "Newton and Schulz's singular values lie about 1"
        cosine = (got * exact).sum() / (got.norm() * exact.norm())
        assert cosine > 0.96


def test_the_gauge_of_the_factors_does_not_matter() -> None:
    """(U T)(V T^-T)^T is the same product, and moves the same way."""
    U, V, momentum, T = draws(M, R, seed=0), draws(N, R, seed=1), draws(M, N, seed=2), draws(R, R, seed=3)
    moved = []
    for left, right in ((U, V), (U @ T, V @ torch.linalg.inv(T).T)):
        change_U, change_V = factor_updates(left, right, momentum @ right, momentum.T @ left, damping=0.0)
        moved.append(change_U @ right.T + left @ change_V.T)
    assert (moved[0] - moved[1]).norm() / moved[0].norm() < 0.05  # bfloat16 inside


def test_weak_directions_are_damped_and_dead_ones_stay() -> None:
    U, V = draws(M, R, seed=0), draws(N, R, seed=1)
    U[:, -1], V[:, -1] = 0, 0
    momentum = draws(M, N, seed=2)
    for damping in (0.0, 0.01):
        changes = factor_updates(U, V, momentum @ V, momentum.T @ U, damping=damping)
        assert all(change.isfinite().all() for change in changes)
        assert all(change[:, -1].abs().max() < 1 for change in changes)


def test_a_group_of_factors_is_moved_in_pairs() -> None:
    layer = LowRankLinear(N, M, R, bias=False, generator=torch.Generator().manual_seed(0)).double()
    optimizer = MatrixMuon([{"params": [layer.U, layer.V], "factors": True}], lr=0.1, momentum=0.0)
    before = layer.U.detach().clone(), layer.V.detach().clone()
    x = draws(5, N, seed=4)
    layer(x).square().sum().backward()
    of_U, of_V = layer.U.grad.clone(), layer.V.grad.clone()
    optimizer.step()
    expected = factor_updates(*before, of_U, of_V, damping=0.1)
    torch.testing.assert_close(layer.U.detach(), before[0] - 0.1 * expected[0])
    torch.testing.assert_close(layer.V.detach(), before[1] - 0.1 * expected[1])


def test_factors_apart_would_move_the_product_unevenly() -> None:
    """Why there is such a rule: orthogonal changes of each factor leave weak directions nearly where they are."""
    columns = torch.logspace(0, -2, R, dtype=torch.float64)
    U, V, momentum = basis(draws(M, R, seed=0)) * columns, basis(draws(N, R, seed=1)) * columns, draws(M, N, seed=2)
    apart = orthogonalized(momentum @ V).double() @ V.T
    together = factor_updates(U, V, momentum @ V, momentum.T @ U, damping=0.0)[0] @ V.T
    spread = [values[0] / values[R - 1] for values in map(torch.linalg.svdvals, (apart, together))]
    assert spread[0] > 50
    assert spread[1] < 2.5


def test_a_dense_matrix_is_moved_as_before() -> None:
    weights = [nn.Parameter(torch.ones(3, 2)) for _ in range(2)]
    one = MatrixMuon([weights[0]], lr=0.1, weight_decay=0.1)
    other = torch.optim.Muon([weights[1]], lr=0.1, weight_decay=0.1)
    for optimizer, weight in zip((one, other), weights, strict=True):
        weight.grad = torch.arange(6.0).view(3, 2)
        optimizer.step()
    assert torch.equal(*weights)
