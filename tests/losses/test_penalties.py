"""L1, L2 and elastic net: values by hand, decay as torch does it, zeros that are exact."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.losses import elastic_net, l1, l2, soft_threshold, soft_threshold_

WEIGHTS = [torch.tensor([[1.0, -2.0], [0.0, 0.5]]), torch.tensor([-3.0])]


def test_values_by_hand() -> None:
    assert float(l1(WEIGHTS)) == 6.5
    assert float(l2(WEIGHTS)) == 14.25
    assert float(elastic_net(WEIGHTS, l1=0.1, l2=0.01)) == pytest.approx(0.65 + 0.1425)


def test_gradients_are_lambda_sign_and_two_lambda_theta() -> None:
    weight = torch.tensor([1.5, -2.0, 0.0], dtype=torch.float64, requires_grad=True)
    (0.1 * l1([weight])).backward()
    assert weight.grad is not None and weight.grad.tolist() == [0.1, -0.1, 0.0]
    weight.grad = None
    (0.1 * l2([weight])).backward()
    assert weight.grad is not None and weight.grad.tolist() == pytest.approx([0.3, -0.4, 0.0])
    assert torch.autograd.gradcheck(lambda w: elastic_net([w], l1=0.3, l2=0.7), (weight[:2].detach().requires_grad_(),))


def updated(optimizer: type, penalty: float, **given: float) -> list[Tensor]:
    """Return the weights of a small model after ten updates with ``penalty`` times `l2` in its loss."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    x, y = torch.randn(8, 3).double(), torch.randn(8, 2).double()
    made = optimizer(model.parameters(), lr=0.1, **given)
    for _ in range(10):
        made.zero_grad()
        loss = (model(x) - y).square().mean()
        (loss + penalty * l2(model.parameters())).backward()
        made.step()
    return [p.detach() for p in model.parameters()]


def gap(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_l2_in_the_loss_is_half_of_coupled_weight_decay(optimizer: type) -> None:
    """The gradient of λ Σ θ² is 2 λ θ, and the decay adds wd θ: so λ is wd/2, and not wd as the guide has it."""
    decayed = updated(optimizer, 0.0, weight_decay=0.02)
    assert gap(updated(optimizer, 0.01, weight_decay=0.0), decayed) < 1e-12
    assert gap(updated(optimizer, 0.02, weight_decay=0.0), decayed) > 1e-5


def test_decoupled_weight_decay_is_no_l2() -> None:
    assert (
        gap(updated(torch.optim.AdamW, 0.01, weight_decay=0.0), updated(torch.optim.AdamW, 0.0, weight_decay=0.02))
        > 1e-3
    )


def test_sums_of_16_bits_are_taken_in_32() -> None:
    large = [torch.full((100_000,), 2.0).half()]
    assert float(l1(large)) == 200_000 and float(l2(large)) == 400_000


def test_no_parameters_and_negative_strengths_are_refused() -> None:
    for penalty in (l1, l2):
        with pytest.raises(SettingError, match="given no parameters"):
            penalty([])
    with pytest.raises(SettingError, match="l1=-1; use 0 or more"):
        elastic_net(WEIGHTS, l1=-1, l2=0.0)
    with pytest.raises(SettingError, match="l2=nan"):
        elastic_net(WEIGHTS, l1=0.0, l2=math.nan)
    for amount in (-0.1, math.inf, math.nan):
        with pytest.raises(SettingError, match="amount="):
            soft_threshold(WEIGHTS[0], amount)


@given(value=st.floats(-5, 5), amount=st.floats(0, 3))
@settings(max_examples=50, deadline=None)
def test_soft_threshold_minimizes_its_objective(value: float, amount: float) -> None:
    found = float(soft_threshold(torch.tensor(value, dtype=torch.float64), amount))
    x = torch.linspace(-6, 6, 24_001, dtype=torch.float64)
    best = float(((x - value).square() / 2 + amount * x.abs()).min())
    assert (found - value) ** 2 / 2 + amount * abs(found) <= best + 1e-9


def test_thresholding_makes_exact_zeros_in_place_and_descent_on_l1_does_not() -> None:
    """A lasso whose truth has two of eight weights, as in the guide's example of a sparse solution."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, generator=generator, dtype=torch.float64)
    truth = torch.tensor([0, 0.5, 0, 0.8, 0, 0, 0, 0], dtype=torch.float64)
    y = x @ truth + 0.05 * torch.randn(200, generator=generator, dtype=torch.float64)
    rate, strength = 0.05, 0.05
    start = nn.Parameter(torch.full((8,), 0.3, dtype=torch.float64))
    proximal, descended = copy.deepcopy(start), copy.deepcopy(start)
    for _ in range(400):
        for weight in (proximal, descended):
            weight.grad = None
            loss = (x @ weight - y).square().mean() / 2
            if weight is descended:
                loss = loss + strength * l1([weight])
            loss.backward()
            with torch.no_grad():
                weight -= rate * weight.grad
        before = proximal.data_ptr()
        soft_threshold_([proximal], rate * strength)
        assert proximal.data_ptr() == before
    assert [i for i, v in enumerate(proximal.tolist()) if v != 0] == [1, 3]
    assert bool((descended != 0).all())
    assert proximal.tolist() == pytest.approx((truth - strength * truth.sign()).tolist(), abs=0.03)


def test_nan_stays_nan_and_types_are_kept() -> None:
    assert math.isnan(float(soft_threshold(torch.tensor(math.nan), 0.1)))
    weight = nn.Parameter(torch.tensor([0.5, 0.01], dtype=torch.bfloat16))
    soft_threshold_([weight], 0.25)
    assert weight.dtype == torch.bfloat16 and weight.tolist() == [0.25, 0.0]
