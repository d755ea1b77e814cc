"""Each norm against its formula, written out in double precision over the axes that its name stands for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import lehr
from lehr.base.errors import SettingError
from lehr.layers import NORMS, initialize, norm

EPS = 1e-5


def formula(x: Tensor, axes: tuple[int, ...], gain: Tensor, bias: Tensor | None) -> Tensor:
    """γ(x − μ)/√(σ² + ε) + β, with mean and (biased) variance over ``axes``."""
    mean = x.sum(axes, keepdim=True) / torch.ones_like(x).sum(axes, keepdim=True)
    variance = ((x - mean) ** 2).sum(axes, keepdim=True) / torch.ones_like(x).sum(axes, keepdim=True)
    shape = (1, -1, *[1] * (x.ndim - 2))
    y = (x - mean) / (variance + EPS).sqrt() * gain.view(shape)
    return y if bias is None else y + bias.view(shape)


def stirred(module: nn.Module, seed: int = 3) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def pictures(*shape: int) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return 3 * x + 7


@pytest.mark.parametrize("spatial", [1, 2, 3])
@pytest.mark.parametrize("kind", ["batch", "layer", "instance"])
def test_norm_is_its_formula(kind: str, spatial: int) -> None:
    x = pictures(5, 6, *[4] * spatial)
    places = tuple(range(2, 2 + spatial))
    axes = {"batch": (0, *places), "layer": (1, *places), "instance": places}[kind]
    layer = stirred(norm(kind, 6, spatial=spatial))
    assert torch.allclose(layer(x), formula(x, axes, layer.weight, layer.bias), atol=1e-10)


def test_group_norm_is_its_formula() -> None:
    x = pictures(3, 6, 4, 4)
    layer = stirred(norm("group", 6, groups=2))
    halves = torch.cat(
        [formula(x[:, part], (1, 2, 3), layer.weight[part], layer.bias[part]) for part in (slice(0, 3), slice(3, 6))],
        dim=1,
    )
    assert torch.allclose(layer(x), halves, atol=1e-10)


def test_group_norm_of_the_guide_has_32_groups_of_8_channels() -> None:
    layer = norm("group", 256)
    assert isinstance(layer, nn.GroupNorm)
    assert (layer.num_groups, layer.num_channels) == (32, 256)


def test_group_norm_lies_between_layer_norm_and_instance_norm() -> None:
    x = pictures(3, 6, 4, 4)
    assert torch.allclose(norm("group", 6, groups=1).double()(x), norm("layer", 6).double()(x))
    assert torch.allclose(norm("group", 6, groups=6).double()(x), norm("instance", 6).double()(x))


@pytest.mark.parametrize("spatial", [0, 1, 2])
def test_rms_norm_takes_no_mean_off(spatial: int) -> None:
    x = pictures(3, 6, *[4] * spatial)
    layer = stirred(norm("rms", 6, spatial=spatial))
    root = (x**2).mean(tuple(range(1, x.ndim)), keepdim=True).sqrt()
    wanted = x / root * layer.weight.view(1, -1, *[1] * spatial)
    assert torch.allclose(layer(x), wanted, atol=1e-10)
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


def test_features_without_places() -> None:
    x = pictures(8, 6)
    layer = stirred(norm("batch", 6, spatial=0))
    assert torch.allclose(layer(x), formula(x, (0,), layer.weight, layer.bias), atol=1e-10)
    layer = stirred(norm("layer", 6, spatial=0))
    assert torch.allclose(layer(x), formula(x, (1,), layer.weight, layer.bias), atol=1e-10)
    texts = pictures(2, 5, 6)
    for kind in ("layer", "rms"):
        layer = stirred(norm(kind, 6, spatial=0))
        assert torch.allclose(layer(texts).flatten(0, 1), layer(texts.flatten(0, 1)))


def test_batch_is_over_samples_and_layer_over_features() -> None:
    """The guide's grid has samples on top and features below, and marks a row for batch norm, which is one feature
    over the samples only if rows are features; the captions are right, and this is what they say."""
    x = torch.tensor([[1.0, 10.0], [3.0, 30.0]], dtype=torch.float64)  # two samples of two features
    per_feature = norm("batch", 2, spatial=0).double()(x)
    per_sample = norm("layer", 2, spatial=0).double()(x)
    assert torch.allclose(per_feature.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-8)
    assert torch.allclose(per_sample.mean(1), torch.zeros(2, dtype=torch.float64), atol=1e-8)
    assert per_feature.sign().tolist() == [[-1, -1], [1, 1]]
    assert per_sample.sign().tolist() == [[-1, 1], [-1, 1]]


@pytest.mark.parametrize("kind", ["layer", "group", "instance", "rms"])
def test_a_sample_does_not_depend_on_the_others(kind: str) -> None:
    x = pictures(4, 8, 3, 3)
    layer = norm(kind, 8, groups=2).double()
    assert torch.allclose(layer(x)[:1], layer(x[:1]))
    assert torch.equal(layer.eval()(x), layer.train()(x))


def test_batch_norm_depends_on_the_others_and_in_evaluation_on_what_it_has_seen() -> None:
    x = pictures(4, 8, 3, 3)
    layer = norm("batch", 8).double()
    assert not torch.allclose(layer(x)[:1], layer(x[:1]), atol=1e-3)
    layer = norm("batch", 8).double()
    for _ in range(200):
        layer(x)
    seen, spread = x.mean((0, 2, 3)), x.var((0, 2, 3))  # the running variance is the unbiased one
    assert torch.allclose(layer.running_mean, seen)
    assert torch.allclose(layer.running_var, spread)
    alone = (x[:1] - seen.view(1, -1, 1, 1)) / (spread.view(1, -1, 1, 1) + EPS).sqrt()
    assert torch.allclose(layer.eval()(x[:1]), alone)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    scale=st.floats(0.5, 50), shift=st.floats(-20, 20), kind=st.sampled_from(["batch", "layer", "group", "instance"])
)
def test_norms_undo_scale_and_shift(scale: float, shift: float, kind: str) -> None:
    """What makes batch norm less sensitive to initialization: weights c times as large give the same output."""
    x = pictures(4, 8, 5, 5)
    layer = norm(kind, 8, groups=4).double()
    assert torch.allclose(layer(scale * x + shift), layer(x), atol=1e-4)


def losses(normed: bool, lr: float, steps: int = 60) -> list[float]:
    """Train eight relu layers by plain gradient descent on the sign of a product of two features."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(256, 16, generator=draws)
    y = (x[:, 0] * x[:, 1] > 0).long()
    layers: list[nn.Module] = []
    for place in range(8):
        layers += [nn.Linear(32 if place else 16, 32), *[norm("batch", 32, spatial=0)] * normed, nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(32, 2))
    initialize(model, "he", generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    found = []
    for _ in range(steps):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def test_batch_norm_tolerates_larger_rates_and_converges_faster() -> None:
    """Two of the guide's four claims, on a small problem: each at a grid of rates."""
    rates = (0.1, 0.3, 1.0)
    plain, normed = ({lr: losses(with_norm, lr) for lr in rates} for with_norm in (False, True))
    assert not plain[1.0][-1] < 1  # nan: too large without
    assert all(normed[lr][-1] < 0.1 for lr in rates)
    assert min(run[-1] for run in plain.values() if run[-1] == run[-1]) > 0.3  # the best rate of each
    assert min(run[19] for run in normed.values()) < 0.1  # in a third of the steps


def test_batch_norm_is_noise_from_the_others_in_training_alone() -> None:
    """Why it is said to regularize: the same sample gives another output in each batch, less so in large batches."""
    x = pictures(512, 4, 1, 1)
    layer = norm("batch", 4).double()
    spread = {}
    for size in (4, 64):
        batches = [torch.cat([x[:1], x[1 + at : at + size]]) for at in range(0, 256, size)]
        spread[size] = torch.stack([layer(batch)[0] for batch in batches]).std(0).mean().item()
    assert spread[4] > 2 * spread[64] > 0.02
    layer.eval()
    assert torch.equal(layer(x[:4])[0], layer(x[:64])[0])


def test_convolution_norm_relu_of_the_guide() -> None:
    block = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), norm("batch", 64), nn.ReLU())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        out = block(torch.randn(4, 3, 16, 16))
    assert out.shape == (4, 64, 16, 16)
    assert bool((out >= 0).all())
    assert 0.4 < (out > 0).float().mean().item() < 0.6


def test_what_cannot_be_normalized_is_refused() -> None:
    with pytest.raises(SettingError, match=r"unknown norm 'bach' \(did you mean 'batch'\?\)"):
        norm("bach", 8)
    with pytest.raises(SettingError, match="groups=32 does not divide 48 channels; use one of 1, 2, 3, 4"):
        norm("group", 48)
    with pytest.raises(SettingError, match="groups=0"):
        norm("group", 48, groups=0)
    with pytest.raises(SettingError, match="places of a channel"):
        norm("instance", 8, spatial=0)
    with pytest.raises(SettingError, match="spatial 0, 1, 2, 3"):
        norm("batch", 8, spatial=4)


@pytest.mark.parametrize("kind", NORMS)
def test_every_norm_can_be_trained_and_saved(kind: str) -> None:
    layer, other = stirred(norm(kind, 8, groups=4)), norm(kind, 8, groups=4).double()
    other.load_state_dict(layer.state_dict())
    x = pictures(3, 8, 4, 4)
    assert torch.equal(layer(x), other(x))
    assert "weight" in dict(layer.named_parameters())


def test_every_norm_has_a_card() -> None:
    cards = Path(lehr.__file__).parent / "cards"
    assert [name for name in NORMS if not (cards / f"{name}-norm.md").is_file()] == []


def test_every_leaf_of_the_family_of_regularization_is_named_with_a_card_of_its_own() -> None:
    leaves = ["l1", "l2", "elastic-net", "dropout", "drop-connect", "drop-path", "early-stopping"]
    leaves += [f"{kind}-norm" for kind in ("batch", "layer", "group", "instance")]
    cards = Path(lehr.__file__).parent / "cards"
    tree = re.search(r"^    regularization\n((?:    .*\n)+)", (cards / "regularization.md").read_text(), re.MULTILINE)
    assert tree is not None
    named = re.findall(r"[a-z][a-z0-9-]+", tree[1])
    for leaf in leaves:
        assert leaf in named, leaf
        assert (cards / f"{leaf}.md").is_file(), leaf
