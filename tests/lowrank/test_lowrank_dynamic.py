"""Ranks that change: nothing is lost by turning, the least possible by shrinking, nothing by growing; moments follow."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lehr.base.errors import SettingError
from lehr.lowrank.dynamic import grown, level, level_by_energy, reorthogonalized, shrunk

GUIDE = [(0, 0.20), (10, 0.15), (30, 0.10)]


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def factors(m: int, n: int, r: int, seed: int = 0, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return factors in float64 whose columns are neither orthogonal nor in order."""
    scale = torch.logspace(0, -spread, r, dtype=torch.float64)[torch.randperm(r, generator=drawn(seed))]
    U = torch.randn(m, r, generator=drawn(seed + 1), dtype=torch.float64) * scale
    return U, torch.randn(n, r, generator=drawn(seed + 2), dtype=torch.float64)


sizes = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12)).map(lambda s: (*s[:2], min(s)))


@settings(deadline=None)
@given(sizes, st.integers(0, 99))
def test_turning_keeps_the_product_and_orders_the_columns(size: tuple[int, int, int], seed: int) -> None:
    U, V = factors(*size, seed)
    turned = reorthogonalized(U, V)
    product = U @ V.T
    assert torch.allclose(turned.U @ turned.V.T, product, atol=1e-10)
    spectrum = torch.linalg.svdvals(product)[: size[2]]
    assert torch.allclose(turned.S, spectrum, atol=1e-10)
    for factor in (turned.U, turned.V):
        assert torch.allclose(factor.T @ factor, torch.diag(spectrum), atol=1e-9)


@settings(deadline=None)
@given(sizes, st.integers(0, 99))
def test_the_transformations_lead_from_the_old_factors_to_the_new(size: tuple[int, int, int], seed: int) -> None:
    U, V = factors(*size, seed)
    turned = reorthogonalized(U, V)
    assert torch.allclose(U @ turned.T_u, turned.U, atol=1e-8)
    assert torch.allclose(V @ turned.T_v, turned.V, atol=1e-8)


def test_gradients_of_the_turned_factors_are_the_turned_gradients() -> None:
    """What first moments have to become, told by autograd: m_U T_v and m_V T_u, not m_U T_u."""
    U, V = factors(9, 7, 4)
    turned = reorthogonalized(U, V)
    target = torch.randn(9, 7, generator=drawn(5), dtype=torch.float64)

    def gradients(U: Tensor, V: Tensor) -> tuple[Tensor, ...]:
        U, V = U.detach().requires_grad_(), V.detach().requires_grad_()
        return torch.autograd.grad(((U @ V.T - target) ** 3).sum(), (U, V))

    before, after = gradients(U, V), gradients(turned.U, turned.V)
    assert torch.allclose(after[0], before[0] @ turned.T_v)
    assert torch.allclose(after[1], before[1] @ turned.T_u)
    assert not torch.allclose(after[0], before[0] @ turned.T_u, rtol=0.1)


def test_second_moments_by_squares_are_right_for_independent_gradients() -> None:
    """v_U (T_v * T_v) is the mean square of the turned gradient where the columns' gradients are uncorrelated."""
    U, V = factors(6, 5, 3)
    T_v = reorthogonalized(U, V).T_v
    samples = torch.randn(20000, 6, 3, generator=drawn(3), dtype=torch.float64) * torch.tensor([1.0, 3.0, 0.5])
    expected = (samples @ T_v).square().mean(dim=0)
    assert torch.allclose(samples.square().mean(dim=0) @ T_v.square(), expected, rtol=0.1)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_shrinking_loses_the_energy_of_the_tail_and_nothing_else(rank: int) -> None:
    U, V = factors(20, 15, 6)
    product = U @ V.T
    spectrum = torch.linalg.svdvals(product)
    less = shrunk(U, V, rank)
    assert less.U.shape == (20, rank) and less.V.shape == (15, rank)
    error = torch.linalg.matrix_norm(product - less.U @ less.V.T)
    assert error.item() == pytest.approx(spectrum[rank:].square().sum().sqrt().item(), rel=1e-9, abs=1e-9)
    assert torch.allclose(U @ less.T_u, less.U) and torch.allclose(V @ less.T_v, less.V)


@settings(deadline=None)
@given(st.integers(0, 99), st.integers(1, 5))
def test_cutting_off_unordered_columns_loses_more(seed: int, rank: int) -> None:
    """The guide's dynamic rank takes the first columns of factors whose columns have no order."""
    U, V = factors(20, 15, 6, seed)
    product, less = U @ V.T, shrunk(U, V, rank)
    cut = torch.linalg.matrix_norm(product - U[:, :rank] @ V[:, :rank].T)
    assert cut > 1.001 * torch.linalg.matrix_norm(product - less.U @ less.V.T)


def test_cutting_off_loses_several_times_as_much_where_the_spectrum_falls() -> None:
    ratios = []
    for seed in range(20):
        U, V = factors(64, 48, 12, seed, spread=2)
        product, less = U @ V.T, shrunk(U, V, 6)
        cut = torch.linalg.matrix_norm(product - U[:, :6] @ V[:, :6].T)
        ratios.append((cut / torch.linalg.matrix_norm(product - less.U @ less.V.T)).item())
    assert sorted(ratios)[10] > 5


def test_factors_of_a_lower_rank_than_they_have_columns() -> None:
    U, V = factors(8, 6, 4)
    U[:, 3] = U[:, 0] + 2 * U[:, 1]  # U has the rank 3, and so has the product
    turned = reorthogonalized(U, V)
    assert torch.allclose(turned.U @ turned.V.T, U @ V.T)
    assert turned.S[3] == 0 and not turned.U[:, 3].any() and not turned.T_u[:, 3].any()
    assert torch.allclose(U @ turned.T_u, turned.U) and torch.allclose(V @ turned.T_v, turned.V)
    zero = reorthogonalized(torch.zeros(8, 4), torch.ones(6, 4))
    assert all(part.isfinite().all() for part in zero) and not zero.S.any()


@pytest.mark.parametrize(("a", "b"), [(1e-25, 1e-15), (1e18, 1e18), (1e15, 1e-20)])
def test_size_does_not_matter(a: float, b: float) -> None:
    U, V = (factor.float() for factor in factors(8, 6, 4))
    at_one, turned = reorthogonalized(U, V), reorthogonalized(U * a, V * b)
    size = (a * b) ** 0.5
    assert torch.allclose(turned.U / size, at_one.U, rtol=1e-3, atol=1e-5)
    assert torch.allclose((U * a) @ turned.T_u / size, turned.U / size, rtol=1e-3, atol=1e-4)
    assert torch.allclose((V * b) @ turned.T_v / size, turned.V / size, rtol=1e-3, atol=1e-4)


def test_16_bits_are_computed_in_32_and_nonfinite_is_not_repaired() -> None:
    U, V = (factor.bfloat16() for factor in factors(8, 6, 4))
    turned = reorthogonalized(U, V)
    assert turned.U.dtype == torch.bfloat16 and turned.T_u.dtype == turned.S.dtype == torch.float32
    expected = U.float() @ V.float().T
    assert torch.linalg.matrix_norm(turned.U.float() @ turned.V.float().T - expected) < 0.01 * expected.norm()
    U[0, 0] = torch.inf
    assert all(part.isnan().all() for part in reorthogonalized(U, V))


def test_growing_keeps_the_product_and_takes_what_the_gradient_asks_for() -> None:
    U, V = factors(12, 10, 3)
    G = torch.randn(12, 10, generator=drawn(7), dtype=torch.float64)
    more_U, more_V = grown(U, V, 5, gradient=G)
    assert torch.equal(more_U[:, :3], U) and torch.equal(more_V[:, :3], V)
    assert torch.linalg.matrix_norm(more_U @ more_V.T - U @ V.T) < 1e-6
    new = more_U[:, 3:]
    assert not more_V[:, 3:].any()
    assert (U.T @ new).abs().max() < 1e-9
    # the oracle: projectors by the pseudo-inverse, and a search over random directions that finds nothing better
    P_u, P_v = U @ torch.linalg.pinv(U), V @ torch.linalg.pinv(V)
    outside = (torch.eye(12) - P_u) @ G @ (torch.eye(10) - P_v)
    got = torch.linalg.matrix_norm(new.T @ outside) / torch.linalg.matrix_norm(new)
    for seed in range(50):
        other = torch.linalg.qr(torch.randn(12, 2, generator=drawn(seed), dtype=torch.float64)).Q
        assert torch.linalg.matrix_norm(other.T @ outside) / 2**0.5 <= got * (1 + 1e-9)
    length = U.square().sum(dim=0).mean().sqrt()
    assert torch.allclose(new.norm(dim=0), length.expand(2))


def test_grown_factors_reach_what_the_old_ones_cannot() -> None:
    target = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0]))
    U, V = torch.eye(4)[:, :1], 3 * torch.eye(4)[:, :1]

    def fitted(U: Tensor, V: Tensor) -> float:
        U, V = U.clone().requires_grad_(), V.clone().requires_grad_()
        for _ in range(500):
            loss = (U @ V.T - target).square().sum()
            gradients = torch.autograd.grad(loss, (U, V))
            with torch.no_grad():
                U -= 0.02 * gradients[0]
                V -= 0.02 * gradients[1]
        return loss.item()

    assert fitted(U, V) == pytest.approx(5.0, rel=1e-3)
    assert fitted(*grown(U, V, 3, gradient=U @ V.T - target)) < 1e-3


def test_random_directions_come_from_the_given_generator() -> None:
    U, V = (factor.float() for factor in factors(9, 8, 2))
    first, again = (grown(U, V, 4, generator=drawn(1)) for _ in range(2))
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], grown(U, V, 4, generator=drawn(2))[0])
    assert (U.T @ first[0][:, 2:]).abs().max() < 1e-5
    with pytest.raises(SettingError, match="2 new directions have to be drawn; give a generator"):
        grown(U, V, 4)


def test_a_gradient_with_too_few_directions_is_filled_up() -> None:
    U, V = factors(9, 8, 2)
    G = torch.outer(torch.randn(9, generator=drawn(1)).double(), torch.randn(8, generator=drawn(2)).double())
    with pytest.raises(SettingError, match="1 new directions"):
        grown(U, V, 4, gradient=G)
    more, _ = grown(U, V, 4, gradient=G, generator=drawn(0))
    directions = more[:, 2:] / more[:, 2:].norm(dim=0)
    assert torch.allclose(directions.T @ directions, torch.eye(2, dtype=torch.float64), atol=1e-9)
    outside = G[:, :1] - U @ (torch.linalg.pinv(U) @ G[:, :1])
    assert (directions[:, 0] @ outside[:, 0]).abs().item() == pytest.approx(outside.norm().item())


def test_growing_from_zeros_and_to_the_full_rank() -> None:
    more, beside = grown(torch.zeros(4, 1), torch.ones(3, 1), 3, generator=drawn(0))
    assert more[:, 1:].norm(dim=0).tolist() == pytest.approx([1, 1])
    assert not beside[:, 1:].any()
    U, V = factors(4, 4, 2)
    more, _ = grown(U, V, 4, generator=drawn(0))
    assert torch.linalg.matrix_rank(more) == 4


@pytest.mark.parametrize("rank", [2, 7])
def test_ranks_that_do_not_grow_are_refused(rank: int) -> None:
    U, V = factors(8, 6, 2)
    with pytest.raises(SettingError, match=r"use 3\.\.6"):
        grown(U, V, rank, generator=drawn(0))


def test_what_does_not_fit_is_refused() -> None:
    U, V = factors(8, 6, 2)
    with pytest.raises(SettingError, match=r"use 1\.\.2"):
        shrunk(U, V, 3)
    with pytest.raises(SettingError, match="use .m, r. and .n, r."):
        reorthogonalized(U, V[:, :1])
    with pytest.raises(SettingError, match=r"finite one of the shape \(8, 6\)"):
        grown(U, V, 3, gradient=torch.full((8, 6), torch.nan, dtype=torch.float64))


def test_levels_by_time() -> None:
    assert [level(epoch, GUIDE) for epoch in (0, 10, 29.9, 30, 1000)] == [0.20, 0.15, 0.15, 0.10, 0.10]
    for bad in ([], [(5, 0.2)], [(0, 0.2), (0, 0.1)], [(0, 0.2), (5, 0.1), (3, 0.05)], [(0, 1.5)]):
        with pytest.raises(SettingError, match="shares in"):
            level(0, bad)


@settings(deadline=None)
@given(st.integers(0, 200), st.sampled_from([16, 32, 64, 128]))
def test_levels_by_energy_do_not_swing(needed: int, current: int) -> None:
    """A change moves one step at most, and is not taken back while the need stays what it was."""
    ranks = [16, 32, 64, 128]
    after = level_by_energy(min(needed, current), current, ranks)
    assert abs(ranks.index(after) - ranks.index(current)) <= 1
    again = level_by_energy(min(needed, current), after, ranks)
    assert (again - after) * (after - current) >= 0


def test_levels_by_energy_settle() -> None:
    ranks = [16, 32, 64, 128]
    path = list(itertools.accumulate(range(5), lambda at, _: level_by_energy(min(10, at), at, ranks), initial=128))
    assert path == [128, 64, 32, 16, 16, 16]
    with pytest.raises(SettingError, match="ascending ranks that hold"):
        level_by_energy(3, 20, ranks)
    with pytest.raises(SettingError, match="shrink < grow"):
        level_by_energy(3, 16, ranks, shrink=0.9, grow=0.8)
