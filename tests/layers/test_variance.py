"""The check that signals pass: the three chains, ten layers at a tenth, what cures them, and that nothing is changed."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.layers import check_variance, initialize
from lehr.models.gpt import GPTSettings
from lehr.models.resnet import ResNetSettings

WIDTH = 256


def chain(gain: float, depth: int = 10) -> nn.Sequential:
    """Return linear layers that multiply the size of what passes by ``gain`` each."""
    model = nn.Sequential(*[nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(depth)])
    generator = torch.Generator().manual_seed(0)
    for layer in model:
        nn.init.normal_(layer.weight, std=gain / WIDTH**0.5, generator=generator)
    return model


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("gain", "ok"), [(0.1, False), (10.0, False), (1.0, True)])
def test_three_chains_vanish_explode_and_stay(gain: float, ok: bool) -> None:
    report = check_variance(chain(gain, depth=4), noise(64, WIDTH))
    assert report.ok == ok
    for place, layer in enumerate(report.layers):
        assert layer.activation_ratio == pytest.approx(gain**place, rel=0.2)
        assert layer.gradient_ratio == pytest.approx(gain ** (3 - place), rel=0.2)


def test_ten_layers_at_a_tenth_leave_ten_to_the_minus_ten() -> None:
    """The guide's drawing of ten layers ends at 0.0001, which is what four leave."""
    model, x = chain(0.1), noise(64, WIDTH).requires_grad_()
    out = model(x)
    assert out.std().item() == pytest.approx(1e-10, rel=0.2)
    out.backward(noise(64, WIDTH))
    assert x.grad is not None
    assert x.grad.std().item() == pytest.approx(1e-10, rel=0.2)
    assert chain(0.1, depth=4)(x).std().item() == pytest.approx(1e-4, rel=0.2)
    assert chain(10.0)(x).std().item() == pytest.approx(1e10, rel=0.2)


def test_the_layers_nearest_to_the_input_are_those_that_no_gradient_reaches() -> None:
    report = check_variance(chain(0.1), noise(64, WIDTH))
    ratios = [layer.gradient_ratio for layer in report.layers]
    assert ratios == sorted(ratios)
    assert report.layers[0].name == "0" and ratios[0] == pytest.approx(1e-9, rel=0.3) and ratios[-1] == 1


class Shortcuts(nn.Module):
    """A chain whose layers are added to what they get."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


def first_gradient(model: nn.Module, clip: float | None = None) -> float:
    model(noise(64, WIDTH)).square().mean().backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    first = next(model.parameters()).grad
    assert first is not None
    return first.norm().item()


def test_shortcuts_and_norms_cure_what_vanishes_and_clipping_does_not() -> None:
    """The guide lists clipping among the remedies for vanishing gradients."""
    assert not check_variance(chain(0.1), noise(64, WIDTH)).ok
    assert check_variance(Shortcuts(chain(0.1)), noise(64, WIDTH)).ok
    normed = nn.Sequential(*[part for layer in chain(0.1) for part in (layer, nn.LayerNorm(WIDTH))])
    assert check_variance(normed, noise(64, WIDTH)).ok
    vanished = first_gradient(chain(0.1))
    assert vanished < 1e-15
    assert first_gradient(chain(0.1), clip=1.0) == vanished  # already far below the limit
    exploded = chain(10.0)
    assert first_gradient(exploded, clip=1.0) <= 1  # it does bound what explodes


def test_good_initialization_passes_and_torchs_default_fades_with_relu() -> None:
    model = nn.Sequential(*[part for _ in range(10) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU(inplace=True))])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in model[::2]:
            layer.reset_parameters()
    assert not check_variance(model, noise(64, WIDTH)).ok
    initialize(model, "he", generator=torch.Generator().manual_seed(0))
    assert check_variance(model, noise(64, WIDTH)).ok


def test_numbers_are_those_of_the_tensors() -> None:
    model, x, y = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), noise(7, 6), torch.arange(7) % 3
    hidden = model[0](x)
    hidden.retain_grad()
    scores = model[2](hidden.tanh())
    scores.retain_grad()
    F.cross_entropy(scores, y).backward()

    def mean_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def total_and_count(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        return F.cross_entropy(model(batch[0]), batch[1], reduction="sum"), len(batch[1])

    for loss in (mean_loss, total_and_count):
        report = check_variance(model, (x, y), loss=loss)
        for layer, tensor in zip(report.layers, (hidden, scores), strict=True):
            assert tensor.grad is not None
            assert layer.activation == pytest.approx(tensor.detach().double().numpy().std(), rel=1e-6)
            assert layer.gradient == pytest.approx(tensor.grad.double().numpy().std(), rel=1e-5)


def test_nothing_is_changed() -> None:
    model = ResNetSettings(width=4, blocks=1).build({"channels": 3, "num_classes": 3})
    model.add_module("drop", nn.Dropout(0.5))
    x, y = noise(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    F.cross_entropy(model.drop(model(x)), y).backward()
    model.stages[0].eval()
    kept, grads = copy.deepcopy(model), [p.grad.clone() for p in model.parameters()]
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    check_variance(model, (x, y), loss=lambda m, b: F.cross_entropy(m.drop(m(b[0])), b[1]))
    check_variance(model, x)
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    for (name, value), (_, before) in zip(model.state_dict().items(), kept.state_dict().items(), strict=True):
        assert torch.equal(value, before), name
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert torch.equal(parameter.grad, grad)
    assert [m.training for m in model.modules()] == [m.training for m in kept.modules()]
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_twice_the_same() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    assert check_variance(model, noise(5, 6)) == check_variance(model, noise(5, 6))


def test_works_where_gradients_are_switched_off() -> None:
    with torch.no_grad():
        assert check_variance(chain(1.0, depth=3), noise(64, WIDTH)).ok


def test_an_output_that_begins_at_zero_lets_no_gradient_through_yet() -> None:
    model = GPTSettings(width=16, depth=1, heads=2).build({"vocab_size": 11, "context": 8})
    report = check_variance(model, torch.arange(8).view(1, 8))
    assert not report.ok
    assert all(layer.gradient == 0 for layer in report.layers[:-1])


def test_layers_can_be_named_and_those_that_run_twice_are_listed_twice() -> None:
    shared = nn.Linear(WIDTH, WIDTH)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.LayerNorm(WIDTH))
    assert [layer.name for layer in check_variance(model, noise(8, WIDTH)).layers] == ["0", "0"]
    named = check_variance(model, noise(8, WIDTH), layers=["1", "3"])
    assert [layer.name for layer in named.layers] == ["1", "3"]


def test_frozen_layers_below_get_no_gradient_and_say_so() -> None:
    model = chain(1.0, depth=3)
    model[0].weight.requires_grad_(False)
    report = check_variance(model, noise(64, WIDTH))
    assert [layer.gradient > 0 for layer in report.layers] == [False, True, True]
    assert [layer.ok for layer in report.layers] == [False, True, True]


def test_values_that_are_not_finite_never_pass() -> None:
    model = chain(1.0, depth=3)
    model[1].weight.data[0, 0] = float("nan")
    assert [layer.ok for layer in check_variance(model, noise(64, WIDTH)).layers] == [False, False, False]


def test_report_is_a_table() -> None:
    report = check_variance(chain(0.1, depth=3), noise(64, WIDTH), low=0.05, high=20)
    lines = str(report).splitlines()
    assert lines[0].split() == ["layer", "activation", "to", "first", "gradient", "to", "last"]
    assert [line.split()[0] for line in lines[1:4]] == ["0", "1", "2"]
    assert [line.endswith("fail") for line in lines[1:4]] == [not layer.ok for layer in report.layers]
    assert [layer.ok for layer in report.layers] == [False, True, False]
    assert lines[4] == "bounds of the ratios: 0.05 to 20"


def test_what_cannot_be_checked_is_refused() -> None:
    model, x = chain(1.0, depth=2), noise(2, WIDTH)
    for bounds in ({"low": 0.0}, {"low": 11.0}, {"high": 0.01}):
        with pytest.raises(SettingError, match="use 0 < low < high"):
            check_variance(model, x, **bounds)
    with pytest.raises(SettingError, match="a batch that is no tensor"):
        check_variance(model, {"x": x})
    with pytest.raises(SettingError, match="no layer of ReLU to look at was run"):
        check_variance(nn.ReLU(), x)
    with pytest.raises(SettingError, match="no module of Sequential matches 'up'"):
        check_variance(model, x, layers=["up"])
    with pytest.raises(SettingError, match="frozen, or the loss is cut off"):
        check_variance(model.requires_grad_(False), x)
    with pytest.raises(SettingError, match="returns no tensor"):
        check_variance(nn.LSTM(WIDTH, 2), x)
