"""Projectors: their bases against exact ones, and the rules about what lies outside of them by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lehr.base.seeds import generator
from lehr.lowrank.projector import (
    channel_scales,
    limited,
    oriented,
    overlap,
    power_basis,
    random_basis,
    range_basis,
    refresh,
    restored,
    rotated,
    rotated_squares,
)

ALL = pytest.mark.parametrize("projector", ["galore", "random", "power"])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "test projector"))


def power_law(m: int, n: int, exponent: float, seed: int = 0) -> Tensor:
    U, V = (torch.linalg.qr(normal(k, min(m, n), seed=seed + k)).Q for k in (m, n))
    return (U * torch.arange(1, min(m, n) + 1).pow(-exponent)) @ V.T


def assert_orthonormal(basis: Tensor, tolerance: float = 1e-5) -> None:
    eye = torch.eye(basis.shape[1], dtype=basis.dtype)
    torch.testing.assert_close(basis.T @ basis, eye, rtol=0, atol=tolerance)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2))
def test_any_gradient_is_a_matrix_with_its_smaller_side_first_and_back(rows: int, columns: int, more: int) -> None:
    value = normal(rows, columns, *[2] * more)
    matrix = oriented(value)
    assert matrix.shape == (min(rows, columns * 2**more), max(rows, columns * 2**more))
    assert torch.equal(restored(matrix, value.shape), value)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(96, 160), (96, 96)])
def test_a_range_basis_keeps_nearly_what_the_exact_one_keeps(shape: tuple[int, int], exponent: float) -> None:
    A, rank = power_law(*shape, exponent), 10
    exact = np.linalg.svd(A.double().numpy(), compute_uv=False)
    basis = range_basis(A, rank)
    assert_orthonormal(basis)
    left = torch.linalg.norm(A.double() - basis.double() @ (basis.double().T @ A.double()))
    assert float(left) <= 1.05 * float(np.sqrt((exact[rank:] ** 2).sum()))


@ALL
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e18])
def test_the_size_of_a_gradient_does_not_matter(projector: str, scale: float) -> None:
    A = power_law(40, 60, 1.0)
    last = random_basis(A, 5, seed=3)
    one, other = (refresh(B, 5, projector, last=last, seed=1) for B in (A, A * scale))  # type: ignore[arg-type]
    assert_orthonormal(other)
    assert float(overlap(one, other)) == pytest.approx(1, abs=1e-4)


@ALL
@pytest.mark.parametrize("A", [torch.zeros(12, 20), power_law(12, 20, 0.0)[:, :1].expand(12, 20)], ids=["zero", "one"])
def test_a_basis_of_too_little_is_still_orthonormal(projector: str, A: Tensor) -> None:
    first = refresh(A, 4, projector, seed=1)  # type: ignore[arg-type]
    assert_orthonormal(first)
    assert_orthonormal(refresh(A, 4, projector, last=first, seed=2))  # type: ignore[arg-type]


@ALL
def test_draws_follow_from_the_seed_and_the_global_generator_is_left_alone(projector: str) -> None:
    A = normal(100, 140)
    before = torch.get_rng_state()
    one, other = (refresh(A, 6, projector, seed=5) for _ in range(2))  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, other)


def test_random_bases_differ_by_seed_and_estimate_norms() -> None:
    A = power_law(64, 80, 1.0)
    shares = [random_basis(A, 16, seed=seed).T @ A for seed in range(200)]
    mean = torch.stack([R.square().sum(dim=0) for R in shares]).mean(dim=0)
    torch.testing.assert_close(mean, A.square().sum(dim=0) * 16 / 64, rtol=0.15, atol=0)
    found = torch.stack([overlap(random_basis(A, 16, seed=s), random_basis(A, 16, seed=s + 1)) for s in range(100)])
    assert float(found.mean()) == pytest.approx(0.25, abs=0.02)


def test_power_steps_come_to_the_leading_directions() -> None:
    A = power_law(30, 50, 1.0)
    best = torch.linalg.svd(A.double()).U[:, :3].float()
    basis = random_basis(A, 3)
    near = [float(overlap(basis := power_basis(A, basis), best)) for _ in range(12)]
    assert near[0] < near[-1] and near[-1] > 0.999


def test_a_basis_of_something_not_finite_is_not_finite() -> None:
    A = normal(30, 40)
    A[0, 0] = torch.nan
    assert not torch.isfinite(range_basis(A, 4)).any()
    assert not torch.isfinite(power_basis(A, random_basis(A, 4))).all()


def test_the_overlap_of_a_subspace_does_not_depend_on_its_basis() -> None:
    basis = random_basis(torch.zeros(20, 20), 4)
    turn = torch.linalg.qr(normal(4, 4)).Q
    assert float(overlap(basis @ turn, basis)) == pytest.approx(1, abs=1e-5)
    assert float(overlap(torch.eye(8)[:, :4], torch.eye(8)[:, 4:])) == 0


def test_a_mean_turns_with_its_basis() -> None:
    """Where both bases span the same, what it stands for in the weights does not change."""
    old = random_basis(torch.zeros(20, 20), 4)
    new = old @ torch.linalg.qr(normal(4, 4)).Q
    mean = normal(4, 7)
    torch.testing.assert_close(new @ rotated(mean, new, old), old @ mean, rtol=0, atol=1e-5)


def test_squares_turn_as_those_of_uncorrelated_directions() -> None:
    old, new = (random_basis(torch.zeros(20, 20), 4, seed=seed) for seed in (1, 2))
    deviations = torch.tensor([3.0, 1.0, 0.5, 2.0])
    draws = deviations[:, None] * normal(4, 200_000)
    found = rotated_squares(deviations.square()[:, None], new, old)[:, 0]
    torch.testing.assert_close(rotated(draws, new, old).square().mean(dim=1), found, rtol=0.03, atol=1e-3)
    assert bool((rotated_squares(torch.rand(4, 9), new, old) >= 0).all())


def test_scales_of_channels_by_hand() -> None:
    A = torch.tensor([[0.6, 0.0, 0.0, 0.0], [0.8, 0.5, 0.0, 0.0], [0.5, 0.1, 0.0, 0.0], [0.5, 0.4, 6.0, 0.0]])
    step = torch.tensor([[3.0, 0.0, 1.0, 0.0], [4.0, 2.0, 0.0, 0.0]])
    least = 0.5**0.5 * 6  # of the third channel nothing is in the basis
    torch.testing.assert_close(channel_scales(step, A[:2], A), torch.tensor([[5.0, 4.0, 1 / least, 0.0]]))


def test_the_limiter_by_hand() -> None:
    part = torch.tensor([[6.0, 8.0]])  # of norm 10
    for last, growth, norm in [(None, 1.01, 10.0), (5.0, None, 10.0), (0.0, 1.01, 10.0), (9.95, 1.01, 10.0)]:
        kept, found = limited(part, None if last is None else torch.tensor(last), growth)
        assert torch.equal(kept, part) and float(found) == norm
    shorter, found = limited(part, torch.tensor(5.0), 1.01)
    torch.testing.assert_close(shorter, part * 0.505)
    assert float(found) == pytest.approx(5.05)
