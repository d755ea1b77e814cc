"""What dropping drops: values, channels, samples or weights; that the expected value stays; nothing in evaluation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lehr.base.errors import SettingError
from lehr.layers import (
    DropConnectLinear,
    Dropout,
    DropPath,
    SpatialDropout,
    depth_rates,
    drop_connect,
    drop_path,
    inverted_dropout,
)

quick = settings(max_examples=25, deadline=None, derandomize=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close_to(mean: float, wanted: float, std: float, n: int) -> bool:
    """Whether a mean of n draws is within four standard errors of what it should be."""
    return abs(mean - wanted) < 4 * std / math.sqrt(n)


@quick
@given(p=st.floats(0.05, 0.9), seed=st.integers(0, 1000))
def test_values_are_dropped_at_the_rate_and_the_rest_is_scaled_up(p: float, seed: int) -> None:
    out = inverted_dropout(torch.ones(20_000), p, generator=seeded(seed))
    kept = out[out != 0]
    assert torch.allclose(kept, torch.full_like(kept, 1 / (1 - p)))
    assert close_to(1 - len(kept) / 20_000, p, math.sqrt(p * (1 - p)), 20_000)
    assert close_to(out.mean().item(), 1.0, math.sqrt(p / (1 - p)), 20_000)


def test_dropout_is_the_inverted_form_so_there_is_nothing_to_scale_in_evaluation() -> None:
    """The guide's prose multiplies by the keep rate in evaluation; its code, and torch, divide in training."""
    x = torch.ones(50_000)
    layer = Dropout(0.25)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trained = layer(x)
    assert trained.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert torch.equal(layer.eval()(x), x)
    assert close_to(trained.mean().item(), 1.0, math.sqrt(0.25 / 0.75), 50_000)
    scaled_twice = 0.75 * layer(x)  # what the prose would do to a network trained so: a quarter too small
    assert scaled_twice.mean().item() == pytest.approx(0.75)


def test_the_network_of_the_guide_drops_in_training_only() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), Dropout(0.5), nn.Linear(256, 10))
        x = torch.randn(4, 784)
        assert not torch.equal(model(x), model(x))
        model.eval()
        assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("ndim", [3, 4, 5])
def test_whole_channels_are_dropped(ndim: int) -> None:
    x = torch.ones(50, 8, *[3] * (ndim - 2))
    out = inverted_dropout(x, 0.3, shared=ndim - 2, generator=seeded()).flatten(2)
    assert torch.equal(out, out[..., :1].expand_as(out))
    assert 0.2 < (out[..., 0] == 0).float().mean().item() < 0.4
    assert len((out[:, :, 0] == 0).unique(dim=0)) > 10  # each sample has its own


def test_spatial_dropout_is_torchs_and_drops_whole_channels() -> None:
    assert SpatialDropout is nn.Dropout2d
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        out = SpatialDropout(0.5)(torch.ones(64, 16, 4, 4)).flatten(2)
    assert torch.equal(out, out[..., :1].expand_as(out))
    assert set(out.unique().tolist()) == {0.0, 2.0}


@quick
@given(p=st.floats(0.05, 0.8), seed=st.integers(0, 1000))
def test_drop_path_drops_whole_samples_and_keeps_the_expected_value(p: float, seed: int) -> None:
    x = torch.randn(4000, 3, 2, generator=seeded(1))
    out = drop_path(x, p, generator=seeded(seed))
    dropped = (out == 0).flatten(1)
    assert torch.equal(dropped.all(1), dropped.any(1))
    kept = ~dropped.all(1)
    assert torch.allclose(out[kept], x[kept] / (1 - p))
    assert close_to(1 - kept.float().mean().item(), p, math.sqrt(p * (1 - p)), 4000)
    assert torch.allclose(out.mean(0), x.mean(0), atol=6 * math.sqrt((1 / (1 - p)) / 4000))


def test_drop_path_does_nothing_in_evaluation_or_at_rate_zero() -> None:
    x = torch.randn(5, 3, generator=seeded())
    assert DropPath(0.9).eval()(x) is x
    assert DropPath(0.0)(x) is x


def test_drop_path_keeps_the_gradient_of_the_samples_it_keeps() -> None:
    x = torch.randn(100, 3, generator=seeded(), requires_grad=True)
    out = drop_path(x, 0.5, generator=seeded(1))
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, (out != 0).float() * 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_drops_keep_the_number_format(dtype: torch.dtype) -> None:
    x = torch.ones(10, 4, dtype=dtype)
    assert inverted_dropout(x, 0.5, generator=seeded()).dtype == dtype
    assert drop_path(x, 0.5, generator=seeded()).dtype == dtype


def test_depth_rates_grow_in_proportion_to_depth() -> None:
    assert depth_rates(0.5, 4) == [0.125, 0.25, 0.375, 0.5]
    assert depth_rates(0.3, 1) == [0.3]
    assert depth_rates(0.0, 3) == [0.0, 0.0, 0.0]
    # Huang et al.: survival 1 - (l/L)(1 - p_L), with p_L = 0.5 and 54 blocks, leaves 40 of them on average
    assert sum(1 - p for p in depth_rates(0.5, 54)) == pytest.approx(40.25)


def test_drop_connect_drops_weights_and_not_values() -> None:
    x, weight = torch.eye(60), torch.rand(40, 60, generator=seeded()) + 1
    out = drop_connect(x, weight, None, 0.5, generator=seeded(1)).T  # the identity shows the weights that were used
    dropped = out == 0
    assert close_to(dropped.float().mean().item(), 0.5, 0.5, 2400)
    assert not dropped.all(0).any() and not dropped.all(1).any()  # neither whole inputs nor whole outputs
    assert torch.allclose(out[~dropped], 2 * weight[~dropped])


def test_drop_connect_keeps_the_expected_output_and_the_bias() -> None:
    x, weight, bias = (torch.randn(*shape, generator=seeded(9)) for shape in ((2, 5), (3, 5), (3,)))
    draws = torch.stack([drop_connect(x, weight, bias, 0.4, generator=seeded(i)) for i in range(4000)])
    spread = (0.4 / 0.6 * (x.square() @ weight.square().T)).sqrt()  # variance of a sum of w x m/(1-p)
    assert ((draws.mean(0) - F.linear(x, weight, bias)).abs() < 5 * spread / math.sqrt(4000)).all()
    assert torch.allclose(draws.std(0), spread, rtol=0.1)


def test_drop_connect_layer_is_a_linear_layer_in_evaluation() -> None:
    layer, plain = DropConnectLinear(4, 3, p=0.5), nn.Linear(4, 3)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4)
    assert torch.equal(layer.eval()(x), plain(x))
    layer.train()
    assert not torch.equal(layer(x), layer(x))


def test_drop_connect_gives_no_gradient_to_what_it_dropped() -> None:
    weight = torch.ones(3, 5, requires_grad=True)
    drop_connect(torch.ones(1, 5), weight, None, 0.5, generator=seeded()).sum().backward()
    assert weight.grad is not None
    assert set(weight.grad.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, math.nan])
def test_rates_outside_of_zero_to_one_are_refused(p: float) -> None:
    x = torch.ones(2, 2)
    for use in (
        lambda: inverted_dropout(x, p),
        lambda: inverted_dropout(x, p, training=False),
        lambda: drop_path(x, p),
        lambda: DropPath(p),
        lambda: DropConnectLinear(2, 2, p=p),
        lambda: depth_rates(p, 2),
    ):
        with pytest.raises(SettingError, match="use 0 <= p < 1"):
            use()


def test_shapes_that_leave_nothing_to_draw_over_are_refused() -> None:
    with pytest.raises(SettingError, match=r"use 0\.\.1"):
        inverted_dropout(torch.ones(2, 2), 0.5, shared=2)
    with pytest.raises(SettingError, match="no dimension"):
        drop_path(torch.ones(()), 0.5)
    with pytest.raises(SettingError, match="1 or more"):
        depth_rates(0.1, 0)


def test_a_generator_of_ones_own_leaves_the_global_one_alone(global_draws: object) -> None:
    state = torch.get_rng_state()
    first = inverted_dropout(torch.ones(50), 0.5, generator=seeded(3))
    assert torch.equal(first, inverted_dropout(torch.ones(50), 0.5, generator=seeded(3)))
    assert torch.equal(torch.get_rng_state(), state)
