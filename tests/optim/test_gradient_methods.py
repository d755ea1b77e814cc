"""What is done to gradients before an update, by numbers worked by hand, by torch, and by the authors' formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.optim import (
    adaptive_clip_,
    add_noise_,
    centralize_,
    clip_by_value_,
    clip_factor,
    global_norm,
    noise_deviation,
    scale_beta,
    scale_rate,
    unit_norms,
)

SEEDS = st.integers(0, 2**31)
few = settings(max_examples=25, deadline=None)


def random(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def test_norm_100_becomes_norm_1() -> None:
    """The guide's example: the direction stays, and so do the proportions between tensors."""
    gradients = [torch.full((50, 50), 1.2, dtype=torch.float64), torch.full((1600,), 2.0, dtype=torch.float64)]
    assert float(global_norm(gradients)) == pytest.approx(100.0)  # 2500 * 1.44 + 1600 * 4 = 10000
    torch._foreach_mul_(gradients, clip_factor(global_norm(gradients), 1.0))
    assert float(global_norm(gradients)) == pytest.approx(1.0, abs=1e-7)
    assert float(gradients[1][0] / gradients[0][0, 0]) == pytest.approx(2.0 / 1.2)


def test_clipping_leaves_a_vanishing_gradient_as_it_is() -> None:
    gradients = [torch.full((4,), 1e-12, dtype=torch.float64)]
    assert float(clip_factor(global_norm(gradients), 1.0)) == 1.0


@few
@given(SEEDS, st.floats(1e-3, 10))
def test_by_value_it_is_torchs(seed: int, limit: float) -> None:
    ours = [random(seed, 3, 4, scale=5), random(seed + 1, 5, scale=5)]
    parameters = [nn.Parameter(torch.zeros_like(g)) for g in ours]
    for parameter, gradient in zip(parameters, ours, strict=True):
        parameter.grad = gradient.clone()
    nn.utils.clip_grad_value_(parameters, limit)
    clip_by_value_(ours, limit)
    for parameter, gradient in zip(parameters, ours, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)


def test_by_value_the_direction_changes_and_nan_stays() -> None:
    gradient = torch.tensor([3.0, 4.0, math.nan, -9.0])
    clip_by_value_([gradient], 0.5)
    assert gradient.tolist()[:2] == [0.5, 0.5]  # by norm (3, 4) would stay in proportion
    assert math.isnan(gradient[2]) and gradient[3] == -0.5
    clip_by_value_([], 0.5)


@pytest.mark.parametrize(
    ("shape", "units"),
    [((3, 4), (3, 1)), ((6, 2, 3, 3), (6, 1, 1, 1)), ((6, 2, 3), (6, 1, 1)), ((5,), ()), ((), ()), ((1, 5), ())],
)
def test_a_unit_is_what_leads_to_one_output(shape: tuple[int, ...], units: tuple[int, ...]) -> None:
    value = random(0, *shape)
    norms = unit_norms(value)
    assert norms.shape == units
    for place, norm in enumerate(norms.flatten()):
        part = value[place] if units else value
        assert float(norm) == pytest.approx(math.sqrt(sum(x**2 for x in part.flatten().tolist())))


@few
@given(SEEDS, st.sampled_from([(3, 4), (4, 2, 3, 3), (5,)]), st.floats(1e-3, 2), st.floats(1e-4, 1), st.floats(0, 1e-3))
def test_adaptive_clipping_is_equation_3(
    seed: int, shape: tuple[int, ...], limit: float, eps: float, scale: float
) -> None:
    weight, gradient = random(seed, *shape, scale=scale), random(seed + 1, *shape)
    expected = gradient.clone()
    for place in range(shape[0] if len(shape) > 1 else 1):
        rows = (slice(None),) if len(shape) == 1 else (place,)
        size = math.sqrt(sum(x**2 for x in gradient[rows].flatten().tolist()))
        most = limit * max(math.sqrt(sum(x**2 for x in weight[rows].flatten().tolist())), eps)
        if size > most:
            expected[rows] = most * gradient[rows] / size
    adaptive_clip_([weight], [gradient], limit=limit, eps=eps)
    assert torch.allclose(gradient, expected, rtol=1e-12, atol=0)


def test_units_without_a_gradient_or_a_weight() -> None:
    gradient = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    adaptive_clip_([torch.zeros(2, 2, dtype=torch.float64)], [gradient], limit=0.01, eps=1e-3)
    assert gradient[0].tolist() == [0.0, 0.0]
    assert gradient[1].tolist() == pytest.approx([0.6e-5, 0.8e-5])


def test_the_noise_fades_as_in_the_paper() -> None:
    for step, eta, gamma in ((0, 1.0, 0.55), (9, 0.3, 0.55), (999, 0.01, 0.55), (99, 0.01, 0.0)):
        assert noise_deviation(step, eta=eta, gamma=gamma) ** 2 == pytest.approx(eta / (1 + step) ** gamma)


def test_the_noise_is_normal_and_of_that_deviation() -> None:
    gradient = torch.full((200, 500), 3.0, dtype=torch.float64)
    add_noise_({"w": gradient}, 0.2, seed=1, step=0)
    noise = (gradient - 3) / 0.2
    assert abs(float(noise.mean())) < 4 / math.sqrt(100_000)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    assert float((noise.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.006)


def test_noise_has_an_address(global_draws: Any) -> None:
    """It follows from seed, step and name, and from nothing that others do; no global generator moves."""

    def noise(names: list[str], seed: int = 0, step: int = 0) -> dict[str, Tensor]:
        gradients = {name: torch.zeros(4) for name in names}
        add_noise_(gradients, 1.0, seed=seed, step=step)
        return gradients

    torch.manual_seed(0)
    expected = global_draws()
    both = noise(["a", "b"])
    torch.manual_seed(0)
    noise(["a"])
    assert global_draws()[2] == expected[2]
    assert torch.equal(noise(["b"])["b"], both["b"])
    assert not torch.equal(both["a"], both["b"])
    assert not torch.equal(both["a"], noise(["a"], seed=1)["a"])
    assert not torch.equal(both["a"], noise(["a"], step=1)["a"])


@few
@given(SEEDS, st.sampled_from([(3, 4), (4, 2, 3, 3), (2, 3, 5)]))
def test_centralized_gradients_have_mean_0_for_each_output(seed: int, shape: tuple[int, ...]) -> None:
    before = random(seed, *shape)
    gradient = before.clone()
    centralize_([gradient])
    assert torch.allclose(gradient.flatten(1).mean(1), torch.zeros(shape[0], dtype=torch.float64), atol=1e-14)
    # the projection of the paper: P = I - e e^T with e the unit vector of ones
    size = before[0].numel()
    ones = torch.ones(size, 1, dtype=torch.float64) / math.sqrt(size)
    projection = torch.eye(size, dtype=torch.float64) - ones @ ones.T
    assert torch.allclose(gradient.flatten(1), before.flatten(1) @ projection, atol=1e-13)


def test_vectors_are_not_centralized() -> None:
    gradients = [torch.ones(3), torch.ones(())]
    centralize_(gradients)
    assert gradients[0].tolist() == [1, 1, 1] and float(gradients[1]) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clip_by_value_([], 0.0), r"limit=0.0 of clipping by value must be above 0"),
        (lambda: clip_by_value_([], math.nan), r"limit=nan of clipping by value"),
        (lambda: adaptive_clip_([], [], limit=-1.0), r"limit=-1.0 of adaptive clipping must be above 0"),
        (lambda: adaptive_clip_([], [], eps=0.0), r"eps=0.0 of adaptive clipping must be above 0"),
        (lambda: noise_deviation(0, eta=0.0), r"eta must be above 0"),
        (lambda: noise_deviation(0, gamma=-1.0), r"gamma 0 or more"),
    ],
)
def test_limits_that_cannot_be_are_refused(call: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        call()


def test_the_guides_batch_of_256() -> None:
    """It multiplies the rate by 8, whatever the optimizer; that is a rule for SGD."""
    linear = scale_rate(0.001, batch_size=32, to=256, for_optimizer="sgd")
    root = scale_rate(0.001, batch_size=32, to=256, for_optimizer="adam")
    assert (linear.lr, linear.rule, linear.factor, linear.warmup) == (0.008, "linear", 8.0, "5 epochs")
    assert (root.lr, root.rule) == (pytest.approx(0.002828427), "sqrt")
    assert scale_rate(0.1, batch_size=64, to=128, rule="linear").lr == 0.2  # twice the batch, twice the rate


@few
@given(st.floats(1e-6, 1), st.integers(1, 4096), st.integers(1, 4096), st.sampled_from(["linear", "sqrt"]))
def test_scaling_there_and_back_changes_nothing(lr: float, batch_size: int, to: int, rule: Any) -> None:
    there = scale_rate(lr, batch_size=batch_size, to=to, rule=rule)
    back = scale_rate(there.lr, batch_size=to, to=batch_size, rule=rule)
    assert back.lr == pytest.approx(lr)
    assert (there.warmup is None) == (to <= batch_size)


def test_what_the_linear_rule_says_of_sgd_and_the_root_of_a_sign() -> None:
    """k steps of SGD on a constant gradient are one step at k times the rate. An adaptive step has no size of its own."""
    gradient, lr, k = 0.3, 0.01, 8
    assert -k * lr * gradient == pytest.approx(-scale_rate(lr, batch_size=1, to=k, rule="linear").lr * gradient)
    noise = random(0, 20_000, k)
    small, large = noise[:, 0].abs().mean(), noise.mean(dim=1).abs().mean()
    assert float(small / large) == pytest.approx(math.sqrt(k), rel=0.03)  # noise falls by the root of the batch


@pytest.mark.parametrize("beta", [0.9, 0.95, 0.999])
def test_a_scaled_beta_spans_the_same_samples(beta: float) -> None:
    k = 4
    assert k / (1 - scale_beta(beta, k)) == pytest.approx(1 / (1 - beta))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scale_rate(0.0, batch_size=1, to=2, rule="linear"), r"the rate must be above 0"),
        (lambda: scale_rate(0.1, batch_size=0, to=2, rule="linear"), r"batch sizes 1 or more"),
        (lambda: scale_rate(0.1, batch_size=1, to=2), r"give rule='linear' or rule='sqrt', or for_optimizer"),
        (lambda: scale_rate(0.1, batch_size=1, to=2, rule="sqrt", for_optimizer="sgd"), r"one of them"),
        (lambda: scale_rate(0.1, batch_size=1, to=2, rule="cube"), r"rule='cube' is no rule"),  # type: ignore[arg-type]
        (lambda: scale_rate(0.1, batch_size=1, to=2, for_optimizer="adamv"), r"no rule .*'adamv' \(did you mean 'adam"),
        (lambda: scale_rate(0.1, batch_size=1, to=2, for_optimizer="muon"), r"no rule is established for.*'muon'"),
        (lambda: scale_beta(0.9, 16), r"spans 10 updates, and the factor must be above 0 and at most that"),
        (lambda: scale_beta(1.0, 1), r"beta=1.0 cannot be scaled"),
    ],
)
def test_scaling_that_cannot_be_is_refused(call: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        call()


def test_optimizers_of_the_table_have_a_rule_or_say_that_there_is_none() -> None:
    from lehr.optim import OPTIMIZERS

    without = []
    for name in OPTIMIZERS:
        try:
            scale_rate(0.1, batch_size=8, to=16, for_optimizer=name)
        except SettingError:
            without.append(name)
    assert set(without) <= {"muon", "lion", "soap", "adafactor", "projected"}
