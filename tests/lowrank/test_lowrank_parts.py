"""Sketches, orthonormal bases, spectra, balances and companions, against oracles in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from lehr.base.errors import SettingError
from lehr.lowrank import Pair, balanced_pair, break_even, companion, energy_rank, spectral_entropy, stable_rank
from lehr.lowrank.decomposition import truncated
from lehr.lowrank.orthonormal import cholesky_qr2, orthonormal, thin_svd
from lehr.lowrank.sketch import sketched, sparse_sign
from lehr.lowrank.warm import warm_pass


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def graded(m: int, k: int, exponent: float) -> Tensor:
    left, right = torch.linalg.qr(normal(m, k).double()).Q, torch.linalg.qr(normal(k, k, seed=1).double()).Q
    return ((left * torch.arange(1, k + 1).double().pow(-exponent)) @ right).float()


def off_orthonormal(Q: Tensor) -> float:
    return float((Q.mT @ Q - torch.eye(Q.shape[-1], dtype=Q.dtype)).abs().max())


DIFFICULT = {
    "spread": normal(300, 35),
    "steep": graded(300, 35, 3.0),
    "rank 8 of 35": normal(300, 8) @ normal(8, 35, seed=1),
    "zero": torch.zeros(300, 35),
    "a zero column": normal(300, 35) * (torch.arange(35) != 7),
    "equal columns": torch.ones(300, 35),
    "unequal scales": normal(300, 35) * torch.logspace(-15, 15, 35),
    "large": 1e25 * normal(300, 35),
    "square": normal(35, 35),
    "batch": normal(3, 100, 12),
}


@pytest.mark.parametrize("name", DIFFICULT)
@pytest.mark.parametrize("make", [orthonormal, cholesky_qr2])
def test_bases_are_orthonormal_and_span_the_columns(make: object, name: str) -> None:
    Y = DIFFICULT[name]
    Q = make(Y)  # type: ignore[operator]
    assert off_orthonormal(Q) < 1e-5
    lengths = Y.norm(dim=-2, keepdim=True).clamp_min(1e-30)
    scaled = (Y / lengths).double()
    assert float((scaled - Q.double() @ (Q.double().mT @ scaled)).abs().max()) < 1e-4


def test_one_pass_of_cholesky_in_single_precision_would_not_do() -> None:
    Y = graded(300, 35, 3.0)
    upper, info = torch.linalg.cholesky_ex(Y.T @ Y, upper=True)
    assert int(info) > 0 or off_orthonormal(torch.linalg.solve_triangular(upper, Y, upper=True, left=False)) > 1e-3


def test_cholesky_qr_of_double_precision() -> None:
    assert off_orthonormal(cholesky_qr2(graded(100, 10, 3.0).double())) < 1e-13


def test_cholesky_qr_reads_nothing_from_the_device() -> None:
    with FakeTensorMode():
        Y = torch.empty(40, 5)
        with pytest.raises(DataDependentOutputException):
            bool(Y.sum() > 0)
        assert cholesky_qr2(Y).shape == (40, 5)


@pytest.mark.parametrize("name", [name for name in DIFFICULT if name not in {"large", "unequal scales"}])
def test_small_singular_values_and_vectors(name: str) -> None:
    Y = DIFFICULT[name]
    U, S, X = thin_svd(Y)
    assert off_orthonormal(U) < 1e-5
    assert off_orthonormal(X) < 1e-5
    exact = torch.linalg.svdvals(Y.double())
    torch.testing.assert_close(S.double(), exact, rtol=1e-4, atol=2e-6 * float(exact.max()))
    torch.testing.assert_close((U * S.unsqueeze(-2)) @ X.mT, Y, rtol=1e-4, atol=2e-5 * max(float(Y.abs().max()), 1e-3))


@pytest.mark.parametrize(("exponent", "by_gram"), [(2.0, True), (3.0, True), (4.0, False)])
def test_the_gram_matrix_gives_the_small_svd_where_it_is_exact(
    exponent: float, by_gram: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    Y, asked = graded(300, 30, exponent), []
    qr = torch.linalg.qr
    monkeypatch.setattr(torch.linalg, "qr", lambda A: asked.append(A) or qr(A))
    U, S, X = thin_svd(Y)
    assert bool(asked) is not by_gram
    assert off_orthonormal(U) < 1e-5
    assert off_orthonormal(X) < 1e-5
    exact = torch.linalg.svdvals(Y.double())
    torch.testing.assert_close(S.double(), exact, rtol=1e-4, atol=1e-6 * float(exact.max()))


def near(A: Tensor, k: int, noise: float) -> Tensor:
    """The leading right directions of A, and a little of others."""
    V = torch.linalg.svd(A, full_matrices=False).Vh.mT[..., :k]
    return torch.linalg.qr(V + noise * normal(*V.shape) / V.shape[-2] ** 0.5).Q


PASSES = {
    "near": (graded(300, 60, 2.0), near(graded(300, 60, 2.0), 12, 0.1), False),
    "batch": (normal(3, 90, 40), near(normal(3, 90, 40), 10, 0.1), False),
    "far": (graded(300, 60, 3.0), normal(60, 12, seed=5), True),
    "of lower rank": (normal(300, 4) @ normal(4, 60), near(normal(300, 60), 12, 0.1), True),
    "zero": (torch.zeros(300, 60), near(normal(300, 60), 12, 0.1), True),
}


@pytest.mark.parametrize("name", PASSES)
def test_a_warm_pass_is_the_projection_on_what_the_basis_is_mapped_to(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    A, basis, forms = PASSES[name]
    formed = []
    monkeypatch.setattr("lehr.lowrank.warm.orthonormal", lambda Y: formed.append(Y) or orthonormal(Y))
    U, S, V = warm_pass(A, basis)
    assert bool(formed) is forms, "the basis is formed where the short way would cancel, and only there"
    for vectors in (U, V):
        assert off_orthonormal(vectors) < 1e-5
    Q = torch.linalg.svd((A @ basis).double(), full_matrices=False).U
    rank = int(torch.linalg.matrix_rank(A.double() @ basis.double()).min())
    Q = Q[..., :rank]
    torch.testing.assert_close(
        (U * S.unsqueeze(-2)) @ V.mT, (Q @ Q.mT @ A.double()).float(), rtol=0, atol=2e-5 * (1 + float(A.abs().max()))
    )


def test_sparse_signs() -> None:
    signs = sparse_sign(500, 40, torch.Generator().manual_seed(0))
    assert bool((signs.abs().sum(dim=1) == 8).all())
    assert set(signs.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert abs(float(signs.mean())) < 0.02
    count = sketched(torch.eye(500), 40, "count", seed=0)
    assert bool((count.abs().sum(dim=1) == 1).all())


def test_sketch_of_a_batch_is_one_and_the_same() -> None:
    A = normal(2, 6, 9)
    torch.testing.assert_close(sketched(A, 4, "gaussian", 3)[1], sketched(A[1], 4, "gaussian", 3))
    assert sketched(A, 3, "sparse_sign", 0).shape == (2, 6, 3)


def test_stable_rank_against_numpy() -> None:
    A = normal(30, 20)
    values = np.linalg.svd(A.double().numpy(), compute_uv=False)
    assert float(stable_rank(A)) == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-5)
    assert float(stable_rank(torch.zeros(3, 3))) == 0
    assert float(stable_rank(1e25 * A)) == pytest.approx(float(stable_rank(A)), rel=1e-4)
    assert stable_rank(torch.stack([A, A])).shape == (2,)


def test_entropy_of_a_spectrum() -> None:
    assert float(spectral_entropy(torch.tensor([1.0, 0.0, 0.0]))) == 0
    assert float(spectral_entropy(1e30 * torch.ones(7))) == pytest.approx(math.log(7), rel=1e-5)
    assert float(spectral_entropy(torch.zeros(4))) == 0


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30), st.floats(0.01, 1.0))
@settings(deadline=None)
def test_energy_rank_is_the_smallest_that_reaches_the_share(values: list[float], share: float) -> None:
    S = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    rank = int(energy_rank(S, share))
    kept, total = S.square().cumsum(0), float(S.square().sum())
    assert kept[rank - 1] >= share * total * (1 - 1e-12)
    assert rank == 1 or kept[rank - 2] < share * total


def test_energy_rank_needs_a_share() -> None:
    with pytest.raises(SettingError, match="not a share"):
        energy_rank(torch.ones(3), 95)


@pytest.mark.parametrize(("m", "n", "saved"), [(1000, 1000, 5.0), (768, 3072, 8.0)])
def test_break_even_says_where_parameters_are_no_longer_saved(m: int, n: int, saved: float) -> None:
    assert m * n / ((m + n) * 0.1 * min(m, n)) == pytest.approx(saved, rel=0.01)
    assert break_even(m, n) * (m + n) == m * n


def layer_norm_fed_gradient() -> Tensor:
    """Return the gradient of a weight behind a LayerNorm with gains near 1, whose rows sum to about 0."""
    width, outputs, tokens = 96, 80, 400
    mixing = normal(width, width, seed=1) * torch.arange(1, width + 1).pow(-0.7)
    x = nn.functional.layer_norm(normal(tokens, width) @ mixing.T, (width,)) * (1 + 0.01 * normal(width, seed=5))
    errors = normal(tokens, 12, seed=2) @ normal(12, outputs, seed=3) + 0.3 * normal(tokens, outputs, seed=4)
    return errors.T @ x / tokens


def relative(A: Tensor, pair: Pair) -> float:
    return float((A - pair.left @ pair.right.T).norm() / A.norm())


def test_balance_by_row_sum_is_worse_than_none_behind_a_layer_norm() -> None:
    A = layer_norm_fed_gradient()
    assert float((A.sum(dim=1).abs() / A.norm(dim=1)).median()) < 0.05
    plain, summed, rows = (relative(A, balanced_pair(A, 9, balance=b)) for b in ("none", "row_sum", "row_norm"))
    assert summed > 1.1 * plain
    assert plain <= rows < summed


def test_no_balance_is_the_optimum() -> None:
    A = normal(40, 60)
    values = torch.linalg.svdvals(A.double())
    assert relative(A, balanced_pair(A, 6)) == pytest.approx(float(values[6:].norm() / values.norm()), rel=1e-4)


def test_row_norm_is_the_optimum_of_relative_errors() -> None:
    A = normal(40, 60) * torch.logspace(0, 3, 40).unsqueeze(1)
    norms = A.norm(dim=1, keepdim=True)
    by_rows, plain = (balanced_pair(A, 6, balance=b) for b in ("row_norm", "none"))
    assert relative(A / norms, Pair(by_rows.left / norms, by_rows.right)) < relative(
        A / norms, Pair(plain.left / norms, plain.right)
    )
    assert float(balanced_pair(torch.zeros(4, 5), 2, balance="row_norm").left.abs().max()) == 0


@pytest.mark.parametrize("rank", [4, 10, 20])
def test_activation_weighting_lowers_the_error_of_the_output(rank: int) -> None:
    W = normal(50, 40)
    x = normal(500, 40, seed=1) * torch.arange(1, 41).pow(-1.0)
    weighted, plain = (
        balanced_pair(W, rank, balance="activation", covariance=x.T @ x / 500),
        balanced_pair(W, rank),
    )
    errors = [float(((W - pair.left @ pair.right.T) @ x.T).norm()) for pair in (weighted, plain)]
    assert errors[0] < 0.8 * errors[1]
    exact = torch.linalg.svdvals((W @ x.T).double())[rank:].norm()
    assert errors[0] == pytest.approx(float(exact), rel=0.02)


def test_activation_of_inputs_that_do_not_span() -> None:
    W, x = normal(20, 30), normal(10, 30, seed=1)
    pair = balanced_pair(W, 10, balance="activation", covariance=x.T @ x / 10)
    assert float(((W - pair.left @ pair.right.T) @ x.T).norm()) < 0.02 * float((W @ x.T).norm())
    dead = balanced_pair(W, 5, balance="activation", covariance=torch.zeros(30, 30))
    assert relative(W, dead) == pytest.approx(relative(W, balanced_pair(W, 5)), rel=1e-3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rank": 0}, r"1\.\.4"),
        ({"rank": 5}, r"1\.\.4"),
        ({"rank": 2, "balance": "activation"}, "missing"),
        ({"rank": 2, "covariance": torch.eye(6)}, "no other takes it"),
        ({"rank": 2, "balance": "activation", "covariance": torch.eye(4)}, r"\(6, 6\)"),
    ],
)
def test_balances_that_do_not_fit_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        balanced_pair(torch.ones(4, 6), **given)  # type: ignore[arg-type]


def test_companion_at_weight_one_is_the_svd_of_the_larger_rank() -> None:
    A = normal(60, 50)
    main = truncated(A, 5)
    rest = companion(A, main, 3)
    larger = truncated(A, 8)
    both = main.left @ main.right.T + rest.left @ rest.right.T
    torch.testing.assert_close(both, larger.left @ larger.right.T, rtol=1e-3, atol=1e-4)
    tenth = main.left @ main.right.T + 0.1 * rest.left @ rest.right.T
    plain, compensated, printed = ((A - made).norm() for made in (main.left @ main.right.T, both, tenth))
    assert plain - printed < 0.25 * (plain - compensated)


def test_companion_of_the_whole_residual_restores_the_matrix() -> None:
    A = normal(20, 30)
    main = truncated(A, 4)
    rest = companion(A, main, 16)
    torch.testing.assert_close(main.left @ main.right.T + rest.left @ rest.right.T, A, rtol=1e-4, atol=1e-4)
    with pytest.raises(SettingError, match=r"1\.\.20"):
        companion(A, main, 21)
