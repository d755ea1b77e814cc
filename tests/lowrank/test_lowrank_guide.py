"""The guide's recipe as printed does not do what it claims; `factorize` does, on the same matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lehr.lowrank import factorize
from lehr.lowrank.guide import dbc, dbc_dac, energy_count, method_1, power_eigh, rank_of, second_round


def own(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def power_law(m: int, n: int, exponent: float) -> Tensor:
    k = min(m, n)
    left, right = (
        torch.linalg.qr(torch.randn(m, k, generator=own())).Q,
        torch.linalg.qr(torch.randn(n, k, generator=own(1))).Q,
    )
    return (left * torch.arange(1, k + 1).float().pow(-exponent)) @ right.T


def ratio(A: Tensor, made: Tensor, rank: int) -> float:
    """Return the error over the optimum's."""
    return float((A - made).double().norm() / torch.linalg.svdvals(A.double())[rank:].norm())


@pytest.mark.parametrize("made", [method_1, second_round])
def test_twice_the_matrix_gives_four_times_the_result(made: object) -> None:
    A = power_law(100, 80, 1.0)
    one, two = made(A, 8, own()), made(2 * A, 8, own())  # type: ignore[operator]
    torch.testing.assert_close(two, 4 * one, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(factorize(2 * A, rank=8).dense(), 2 * factorize(A, rank=8).dense())


@pytest.mark.parametrize(("exponent", "at_least"), [(0.5, 1.4), (1.0, 4.0), (2.0, 50.0)])
def test_error_is_many_times_the_optimum(exponent: float, at_least: float) -> None:
    A = power_law(256, 256, exponent)
    rank = rank_of(A, 0.1)
    claimed = 2.0
    found = ratio(A, method_1(A, rank, own()), rank)
    assert found > at_least
    assert found > claimed or exponent == 0.5
    assert ratio(A, factorize(A, rank=rank).dense(), rank) < 1.05


def test_singular_values_counted_once_the_projection_is_still_blind() -> None:
    A = power_law(256, 256, 2.0)
    Q = torch.linalg.qr(torch.randn(256, 25, generator=own())).Q
    kept = float((A @ Q @ Q.T).norm() ** 2 / A.norm() ** 2)
    assert kept < 0.5  # a tenth on average, whatever the spectrum
    assert float(factorize(A, rank=25).energy) > 0.999


@pytest.mark.parametrize("side", [2, 12, 19])
def test_below_a_side_of_20_nothing_is_left(side: int) -> None:
    A = power_law(side, 3 * side, 1.0)
    assert rank_of(A, 0.1) == 1
    assert bool((second_round(A, 1, own()) == 0).all())
    assert float(factorize(A, rank=1).energy) > 0.3


def test_energy_of_the_sketch_is_not_energy_of_the_matrix() -> None:
    A = power_law(256, 256, 0.5)
    Q = torch.linalg.qr(torch.randn(256, 26, generator=own())).Q
    values = torch.linalg.eigvalsh((A @ Q).T @ (A @ Q)).flip(0)
    k = energy_count(values)
    assert float(values[:k].sum() / values.sum()) >= 0.95
    assert float(values[:k].sum() / A.square().sum()) < 0.3
    assert float(factorize(A, energy=0.95).energy) >= 0.95


def test_power_iteration_finds_what_it_should() -> None:
    symmetric = torch.diag(torch.tensor([8.0, 4.0, 1.0, 0.5]))
    values, _ = power_eigh(symmetric, 2, own())
    torch.testing.assert_close(values, torch.tensor([8.0, 4.0]), rtol=1e-4, atol=1e-4)


def test_row_sums_of_a_gradient_behind_a_layer_norm() -> None:
    x = torch.nn.functional.layer_norm(torch.randn(400, 64, generator=own()), (64,))
    A = (torch.randn(400, 6, generator=own(1)) @ torch.randn(6, 48, generator=own(2))).T @ x / 400
    assert ratio(A, dbc(A, 5, own()), 5) > 5
    assert ratio(A, factorize(A, rank=5, method="range").dense(), 5) < 1.05


def test_a_tenth_of_the_residual_hardly_compensates() -> None:
    A = power_law(100, 80, 1.0).abs()  # rows with sums, so that the balance does no harm of its own
    errors = [float((A - dbc_dac(A, own(), ranks=(8, 4), iterations=i)).norm()) for i in (0, 1, 3)]
    best = ratio(A, factorize(A, rank=12).dense(), 8)
    assert best < 1
    assert min(errors) > 2 * float(torch.linalg.svdvals(A)[8:].norm())
