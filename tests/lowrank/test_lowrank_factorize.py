"""`factorize` against the exact singular value decomposition in float64: errors, scales, shapes, diagnostics, starts."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lehr.base.errors import SettingError
from lehr.lowrank import Decomposition, factorize


def power_law(m: int, n: int, exponent: float, *, seed: int = 0) -> Tensor:
    """Return a matrix with the singular values ``j^-exponent``."""
    own = torch.Generator().manual_seed(seed)
    k = min(m, n)
    left = torch.linalg.qr(torch.randn(m, k, generator=own, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(n, k, generator=own, dtype=torch.float64)).Q
    return ((left * torch.arange(1, k + 1, dtype=torch.float64).pow(-exponent)) @ right.T).float()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(A: Tensor, found: Decomposition) -> float:
    """Return ``||A - U S V^T||_F`` in float64."""
    U, S, V = found.U.double(), found.S.double(), found.V.double()
    return float((A.double() - (U * S) @ V.T).norm())


def optimum(A: Tensor, rank: int) -> float:
    return float(torch.linalg.svdvals(A.double())[rank:].norm())


def off_orthonormal(Q: Tensor) -> float:
    return float((Q.mT @ Q - torch.eye(Q.shape[-1])).abs().max())


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, None])
@pytest.mark.parametrize(("m", "n"), [(256, 256), (1000, 128), (128, 1000)])
@pytest.mark.parametrize("method", ["range", "gram"])
def test_error_is_within_five_percent_of_the_optimum(m: int, n: int, exponent: float | None, method: str) -> None:
    A = normal(m, n) if exponent is None else power_law(m, n, exponent)
    rank = min(m, n) // 10
    found = factorize(A, rank=rank, method=method)
    assert found.method == method
    assert error(A, found) <= 1.05 * optimum(A, rank)


def test_steep_spectrum_of_a_large_matrix() -> None:
    A = power_law(1000, 1000, 2.0)
    assert error(A, factorize(A, rank=100)) <= 1.10 * optimum(A, 100)


@pytest.mark.parametrize(("rank", "exponent", "most"), [(50, 3.0, 1.10), (40, 4.0, 2.0)])
def test_bases_between_products_keep_weak_directions(rank: int, exponent: float, most: float) -> None:
    """Down to the unit of rounding; without one of the bases it is 1.5 times, and at the exponent 4 2.4 times."""
    A = power_law(10 * rank, 10 * rank, exponent)
    assert error(A, factorize(A, rank=rank)) <= most * optimum(A, rank)


def test_steep_spectrum_of_a_long_matrix_at_a_high_rank() -> None:
    """Directions below the root of single precision are lost in the Gram matrix itself."""
    A = power_law(2048, 256, 2.0)
    found = factorize(A, rank=100)
    assert found.method == "gram"
    assert error(A, found) <= 1.10 * optimum(A, 100)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, None])
@pytest.mark.parametrize("rank", [50, 100])
def test_high_ranks_are_within_ten_percent_and_better_with_power(rank: int, exponent: float | None) -> None:
    A = normal(256, 256) if exponent is None else power_law(256, 256, exponent)
    assert error(A, factorize(A, rank=rank)) <= 1.10 * optimum(A, rank)
    assert error(A, factorize(A, rank=rank, power=2)) <= 1.04 * optimum(A, rank)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_without_power_iterations_the_error_is_larger_but_bounded(exponent: float) -> None:
    A = power_law(256, 256, exponent)
    without, with_one = (error(A, factorize(A, rank=25, power=power)) for power in (0, 1))
    assert with_one < without <= 1.5 * optimum(A, 25)


@pytest.mark.parametrize("sketch", ["sparse_sign", "count"])
def test_sparse_sketches_are_as_good_on_a_spread_spectrum(sketch: str) -> None:
    A = power_law(256, 256, 1.0)
    assert error(A, factorize(A, rank=25, sketch=sketch)) <= 1.05 * optimum(A, 25)


@pytest.mark.parametrize(
    ("m", "n", "rank", "method"),
    [
        (64, 300, 6, "exact"),
        (2000, 64, 6, "gram"),
        (256, 256, 120, "exact"),
        (256, 256, 25, "range"),
        (2048, 256, 25, "range"),
        (2048, 256, 100, "gram"),
        (256, 2048, 100, "gram"),
    ],
)
def test_auto_chooses_by_shape_and_rank(m: int, n: int, rank: int, method: str) -> None:
    A = power_law(m, n, 1.0)
    found = factorize(A, rank=rank)
    assert found.method == method
    assert error(A, found) <= 1.05 * optimum(A, rank)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-20, 1e-5, 1e10, 1e20, 1e25, 1e30])
@pytest.mark.parametrize("method", ["exact", "range", "gram"])
def test_factors_follow_the_scale(scale: float, method: str) -> None:
    A = power_law(150, 100, 1.0)
    one, other = factorize(A, rank=10, method=method), factorize(scale * A, rank=10, method=method)
    torch.testing.assert_close(other.S.double() / scale, one.S.double(), rtol=1e-4, atol=0)
    torch.testing.assert_close(other.residual.double() / scale, one.residual.double(), rtol=1e-4, atol=0)
    torch.testing.assert_close(other.energy, one.energy, rtol=1e-5, atol=0)
    assert off_orthonormal(other.U) < 1e-5
    assert off_orthonormal(other.V) < 1e-5


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(1, 150),
    n=st.integers(1, 150),
    exponent=st.sampled_from([0.5, 1.0, 2.0, 6.0]),
    data=st.data(),
)
def test_properties_of_any_matrix(m: int, n: int, exponent: float, data: st.DataObject) -> None:
    A = power_law(m, n, exponent, seed=m + n)
    rank = data.draw(st.integers(1, min(m, n)))
    found = factorize(A, rank=rank, method=data.draw(st.sampled_from(["auto", "range", "gram"])))
    assert (found.U.shape, found.S.shape, found.V.shape) == ((m, rank), (rank,), (n, rank))
    assert off_orthonormal(found.U) < 1e-5
    assert off_orthonormal(found.V) < 1e-5
    assert bool((found.S.diff() <= 1e-6).all())
    total = float(A.double().square().sum())
    kept = float(found.energy) * total + float(found.residual) ** 2
    assert kept == pytest.approx(total, rel=1e-5)
    assert float(found.residual) == pytest.approx(error(A, found), rel=2e-2, abs=1e-6 * total**0.5)
    wide = factorize(A.T, rank=rank, method=found.method)
    # a square matrix is sketched from the right both times, so its transpose is only nearly the same
    torch.testing.assert_close(wide.S, found.S, rtol=1e-3 if m != n else 0.1, atol=1e-5)


def test_wide_is_the_transpose_of_tall() -> None:
    A = power_law(300, 200, 1.0)
    tall, wide = factorize(A, rank=20), factorize(A.T, rank=20)
    assert torch.equal(tall.U, wide.V)
    assert torch.equal(tall.S, wide.S)


@pytest.mark.parametrize("size", [8, 40, 200])
def test_residual_is_right_where_squares_cancel(size: int) -> None:
    A = normal(200, 5) @ normal(5, 200, seed=1)
    A += 1e-4 * normal(200, 200, seed=2)
    found = factorize(A, rank=5, oversample=size - 5)
    assert float(found.residual) == pytest.approx(error(A, found), rel=1e-2)


@pytest.mark.parametrize("method", ["auto", "exact", "range", "gram"])
def test_rank_deficient_zero_and_thin_matrices(method: str) -> None:
    low = normal(120, 3) @ normal(3, 90, seed=1)
    for A, rank in [
        (low, 20),
        (torch.zeros(120, 90), 20),
        (normal(1, 50), 1),
        (normal(50, 1), 1),
        (normal(19, 12), 12),
    ]:
        found = factorize(A, rank=rank, method=method)
        assert off_orthonormal(found.U) < 1e-5
        assert off_orthonormal(found.V) < 1e-5
        assert error(A, found) <= 1e-5 * max(float(A.norm()), 1.0)
        assert float(found.energy) == pytest.approx(1.0)
        assert float(found.residual) <= 1e-5 * max(float(A.norm()), 1.0)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize(("m", "n"), [(200, 200), (900, 100), (50, 400)])
def test_energy_is_of_the_true_total(m: int, n: int, share: float) -> None:
    A = power_law(m, n, 0.7)
    squares = torch.linalg.svdvals(A.double()).square()
    least = int((squares.cumsum(0) < share * (1 - 1e-9) * squares.sum()).sum()) + 1
    found = factorize(A, energy=share)
    assert float(found.energy) >= share - 2e-6
    assert least - (share == 1) * 2 <= found.rank <= least + 2


def test_rank_of_a_batch_is_what_its_hardest_matrix_needs() -> None:
    A = torch.stack([power_law(100, 80, 2.0), power_law(100, 80, 0.5)])
    found = factorize(A, energy=0.8)
    assert found.rank == factorize(A[1], energy=0.8).rank > factorize(A[0], energy=0.8).rank
    assert bool((found.energy >= 0.8 - 1e-5).all())


@pytest.mark.parametrize(("m", "n", "rank"), [(40, 30, 4), (200, 150, 15), (1000, 100, 40)])
def test_batch_is_its_matrices_one_by_one(m: int, n: int, rank: int) -> None:
    A = normal(2, 3, m, n)
    found = factorize(A, rank=rank)
    assert found.U.shape == (2, 3, m, rank)
    assert found.energy.shape == found.residual.shape == found.finite.shape == (2, 3)
    alone = factorize(A[1, 2], rank=rank)
    torch.testing.assert_close(found.S[1, 2], alone.S, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.dense()[1, 2], alone.dense(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", ["exact", "range", "gram"])
def test_not_finite_is_flagged_and_stays_where_it_is(bad: float, method: str) -> None:
    A = normal(3, 100, 80)
    expected = factorize(A, rank=8, method=method)
    A[1, 7, 7] = bad
    found = factorize(A, rank=8, method=method)
    assert found.finite.tolist() == [True, False, True]
    assert bool(found.U[1].isnan().all() & found.S[1].isnan().all() & found.V[1].isnan().all())
    assert bool(found.residual[1].isnan() & found.energy[1].isnan())
    for item in (0, 2):
        torch.testing.assert_close(found.dense()[item], expected.dense()[item], rtol=1e-3, atol=1e-3)


def test_start_survives_what_says_nothing() -> None:
    A = normal(2, 100, 80)
    before = factorize(A, rank=8)
    after = factorize(torch.stack([A[0] * torch.nan, torch.zeros(100, 80)]), rank=8, start=before)
    assert torch.equal(after.basis, before.basis)
    assert error(A[0], factorize(A[0], rank=8, start=after.basis[0])) <= 1.05 * optimum(A[0], 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_are_worked_on_in_single_precision(dtype: torch.dtype) -> None:
    A = power_law(100, 80, 1.0).to(dtype)
    found = factorize(A, rank=8)
    assert {v.dtype for v in (found.U, found.S, found.V, found.energy, found.residual)} == {torch.float32}
    assert torch.equal(found.S, factorize(A.float(), rank=8).S)
    assert error(A, factorize(A, rank=8, start=found.basis.to(dtype))) <= 1.05 * optimum(A, 8)
    assert bool(factorize(torch.full((80, 80), 60000.0).to(dtype), rank=1).S.isfinite().all())


def test_double_precision_stays() -> None:
    A = power_law(200, 150, 1.0).double()
    found = factorize(A, rank=15)
    assert found.U.dtype == torch.float64
    assert float((found.U.T @ found.U - torch.eye(15)).abs().max()) < 1e-13
    assert factorize(1e200 * A, rank=15).S.isfinite().all()


def test_seed_decides_and_the_global_generator_is_left_alone() -> None:
    A = normal(200, 150)
    state = torch.get_rng_state()
    one, same, other = (factorize(A, rank=15, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(same, field.name)
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b
    assert not torch.equal(one.U, other.U)


@pytest.mark.parametrize("method", ["range", "gram"])
@pytest.mark.parametrize("change", [{"seed": 1}, {"sketch": "sparse_sign"}, {"power": 6}, {"oversample": 40}], ids=str)
def test_every_setting_is_read(method: str, change: dict[str, object]) -> None:
    A = normal(400, 150)
    one, other = (factorize(A, rank=15, method=method, **how) for how in ({}, change))  # type: ignore[arg-type]
    assert not torch.equal(one.S, other.S)


@pytest.mark.parametrize(("m", "n"), [(200, 150), (150, 200), (60, 50)])
def test_warm_start_needs_one_pass(m: int, n: int) -> None:
    A = power_law(m, n, 0.7)
    cold = factorize(A, rank=15)
    moved = A + 0.02 * A.norm() / (m * n) ** 0.5 * normal(m, n, seed=3)
    warm = factorize(moved, rank=15, start=cold)
    assert warm.method == "warm"
    assert warm.basis.shape == (n, cold.basis.shape[-1])
    assert error(moved, warm) <= 1.02 * optimum(moved, 15)
    assert off_orthonormal(warm.U) < 1e-5
    assert off_orthonormal(warm.V) < 1e-5


def test_warm_start_without_order_or_rank_is_still_orthonormal() -> None:
    A = power_law(200, 150, 3.0)
    mixed = factorize(A, rank=30).basis @ torch.linalg.qr(normal(40, 40)).Q
    assert mixed.shape[-1] == 40
    for matrix in (A, normal(200, 4) @ normal(4, 150, seed=1)):
        found = factorize(matrix, rank=30, start=mixed)
        assert off_orthonormal(found.U) < 1e-5
        assert off_orthonormal(found.V) < 1e-5


def test_start_is_taken_in_the_precision_of_the_matrix() -> None:
    A = power_law(200, 150, 1.0)
    cold = factorize(A, rank=15)
    assert torch.equal(factorize(A, rank=15, start=cold.basis.double()).S, factorize(A, rank=15, start=cold).S)
    assert factorize(A.double(), rank=15, start=cold).U.dtype == torch.float64


def test_one_start_serves_a_whole_batch() -> None:
    A = power_law(200, 150, 1.0)
    cold = factorize(A, rank=15)
    both = factorize(torch.stack([A, 2 * A]), rank=15, start=cold)
    torch.testing.assert_close(both.S[1], 2 * both.S[0])


def test_warm_start_that_keeps_too_little_energy_is_left() -> None:
    A = power_law(200, 150, 0.5)
    narrow = factorize(A, rank=4, oversample=0)
    assert factorize(A, energy=0.9, start=narrow).method != "warm"
    assert factorize(A, energy=0.1, start=factorize(A, rank=30)).method == "warm"


def test_gradients_are_not_followed() -> None:
    A = normal(80, 70).requires_grad_()
    assert not factorize(A, rank=7).U.requires_grad


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "exactly one"),
        ({"rank": 3, "energy": 0.5}, "exactly one"),
        ({"rank": 0}, r"1\.\.30"),
        ({"rank": 31}, r"1\.\.30"),
        ({"energy": 0.0}, "share"),
        ({"energy": 1.5}, "share"),
        ({"rank": 3, "method": "fast"}, "methods are auto"),
        ({"rank": 3, "sketch": "dense"}, "sketches gaussian"),
        ({"rank": 3, "power": -1}, "0 or more"),
        ({"rank": 3, "oversample": -1}, "0 or more"),
        ({"rank": 3, "start": torch.ones(40, 3)}, r"\(30, k\)"),
        ({"rank": 3, "start": torch.ones(30, 2)}, r"\(30, k\)"),
        ({"rank": 3, "start": torch.ones(30)}, r"\(30, k\)"),
        ({"rank": 3, "start": torch.ones(2, 30, 3)}, "one for all or one for each"),
        ({"rank": 3, "start": torch.ones(30, 3) * torch.nan}, "not finite"),
        ({"rank": 3, "start": torch.ones(30, 3), "method": "range"}, "method='auto'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        factorize(torch.ones(40, 30), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("A", [torch.ones(4), torch.ones(0, 4), torch.ones(4, 4, dtype=torch.long)])
def test_what_is_no_matrix_is_refused(A: Tensor) -> None:
    with pytest.raises(SettingError, match="real matrices"):
        factorize(A, rank=1)


@pytest.mark.parametrize("shape", [(300, 200), (2, 200, 300), (60, 50), (1000, 100)])
def test_nothing_is_read_back_from_a_device(shape: tuple[int, ...]) -> None:
    A = torch.empty(shape, device="meta")  # which has no values, so that reading one raises
    with pytest.raises(RuntimeError):
        A.sum().item()
    found = factorize(A, rank=30)
    assert factorize(A, rank=30, start=found).U.shape == (*shape[:-1], 30)
