"""The check that signals pass: the three chains, ten layers at a tenth, what cures them, and that nothing is changed."""

from __future__ import annotations

import copy
import itertools
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.layers import Xavier, check_variance, initialize, zero_init_residual
from lehr.models.convnet import ConvNetSettings
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


def test_no_single_rate_cures_what_vanishes_and_a_rate_for_each_weight_does() -> None:
    """The guide's fourth remedy. A rate scales all steps alike, so what is 1e-6 of the others stays 1e-6 of them."""
    parts = [part for layer in chain(1.0, depth=10) for part in (layer, nn.Sigmoid())]
    moved: dict[str, list[float]] = {}
    for name, make in (
        ("small", lambda p: torch.optim.SGD(p, lr=1e-2)),
        ("large", lambda p: torch.optim.SGD(p, lr=1e4)),
        ("adam", lambda p: torch.optim.Adam(p, lr=1e-2, eps=1e-30)),
    ):
        model = copy.deepcopy(nn.Sequential(*parts)).double()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer = make(model.parameters())
        model(noise(64, WIDTH).double()).square().mean().backward()
        optimizer.step()
        pairs = zip(model.parameters(), before, strict=True)
        moved[name] = [((new - old).norm() / old.norm()).item() for new, old in pairs]
    for name in ("small", "large"):
        assert moved[name][0] / moved[name][-1] < 1e-5
    assert moved["large"][0] < 1e-2 and moved["large"][-1] > 10  # too little for one and too much for the other
    assert moved["adam"][0] == pytest.approx(moved["adam"][-1], rel=0.2)


def conv(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)


def pooled(
    pool: type[nn.Module], depth: int = 3, gain: float = 1.0, activation: type[nn.Module] = nn.ReLU
) -> nn.Module:
    """Return three stages of convolutions with pooling between, and a mean over all places before the last layer."""
    layers: list[nn.Module] = []
    before = 3
    for width in (16, 32, 64):
        for _ in range(depth):
            layers += [conv(before, width), activation()]
            before = width
        layers += [pool(2)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    rule = "he" if activation is nn.ReLU else Xavier(gain=5 / 3)
    initialize(model, rule, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Conv2d):
                layer.weight *= gain
    return model


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("pool", [nn.MaxPool2d, nn.AvgPool2d])
def test_pooling_is_no_fault(pool: type[nn.Module], activation: type[nn.Module]) -> None:
    """The gradient per value falls by the number of places at a mean over them, which is as it should be."""
    assert check_variance(pooled(pool, activation=activation), noise(4, 3, 32, 32)).ok


@pytest.mark.parametrize("pool", [nn.MaxPool2d, nn.AvgPool2d])
@pytest.mark.parametrize("gain", [0.4, 2.5])
def test_what_vanishes_or_explodes_is_found_behind_pooling_too(pool: type[nn.Module], gain: float) -> None:
    report = check_variance(pooled(pool, gain=gain), noise(4, 3, 32, 32))
    convolutions = report.layers[:-1]
    assert not report.ok
    for ratio in (convolutions[-1].activation_ratio, convolutions[0].gradient_ratio):
        assert ratio < 0.01 if gain < 1 else ratio > 100


def test_a_mean_over_places_takes_the_root_of_their_number_and_is_not_counted() -> None:
    model = nn.Sequential(
        nn.Conv2d(8, 8, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8, bias=False)
    )
    with torch.no_grad():
        for layer in (model[0], model[3]):
            layer.weight.copy_(torch.eye(8).view_as(layer.weight))
    first, last = check_variance(model, noise(32, 8, 16, 16)).layers
    assert first.gradient / last.gradient == pytest.approx(1 / 16)
    assert first.gradient_ratio == pytest.approx(1) and last.activation_ratio == pytest.approx(1, rel=0.1)
    with torch.no_grad():
        model[3].weight *= 0.3  # beyond what the mean does, it counts
    first, last = check_variance(model, noise(32, 8, 16, 16)).layers
    assert first.gradient_ratio == pytest.approx(0.3)
    assert last.activation_ratio == pytest.approx(0.3, rel=0.1)


def test_models_here_pass_under_he() -> None:
    pictures = {"channels": 3, "num_classes": 10}
    made: list[nn.Module] = [ConvNetSettings().build(pictures)]
    for order in ("conv-norm-act", "conv-act-norm", "norm-act-conv"):
        made += [ResNetSettings(width=8, blocks=2, order=order).build(pictures)]
    for model in made:
        initialize(model, "he", generator=torch.Generator().manual_seed(0))  # no branch begins at zero any more
        report = check_variance(model, noise(16, 3, 16, 16))
        assert report.ok, str(report)


def test_branches_that_begin_at_zero_are_told_and_the_way_past_them_is_measured() -> None:
    model = ResNetSettings(width=8, blocks=2).build({"channels": 3, "num_classes": 10})
    initialize(model, "he", generator=torch.Generator().manual_seed(0))
    zero_init_residual(model)
    report = check_variance(model, noise(16, 3, 16, 16))
    verdicts = {layer.name: layer.verdict for layer in report.layers}
    assert all(("no gradient" if ".conv" in name else "pass") == verdict for name, verdict in verdicts.items())
    assert not report.ok and "behind weights that begin at 0" in str(report)


class Words(nn.Module):
    """A mean over the words of a text."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.last = nn.Embedding(30, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(self.hidden(self.words(x)).relu().mean(1))
        return scores


def test_a_mean_over_positions_is_no_fault() -> None:
    model = Words()
    initialize(model, "he", generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(0, 30, (8, 200), generator=torch.Generator().manual_seed(1))
    assert check_variance(model, tokens).ok


def test_strides_and_widths_keep_the_norm() -> None:
    """Under He each layer's gradient has the same norm, whatever the numbers of channels and places."""
    widths = [3, 64, 16, 128]
    layers = [part for a, b in itertools.pairwise(widths) for part in (conv(a, b, stride=2), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 5))
    initialize(model, "he", generator=torch.Generator().manual_seed(0))
    report = check_variance(model, noise(8, 3, 32, 32))
    for layer in report.layers:
        assert layer.gradient / report.layers[-1].gradient == pytest.approx(1, rel=0.3)


class Recurrent(nn.Module):
    """An LSTM, of which the last state is read."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(16, 32, num_layers=3), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.lstm(x)[0][-1])
        return scores


def test_what_was_not_looked_at_is_named_and_nothing_is_claimed_of_it() -> None:
    model = Recurrent()
    with torch.no_grad():
        for parameter in model.lstm.parameters():
            parameter.mul_(1e-4)
    report = check_variance(model, noise(10, 4, 16))
    assert [layer.name for layer in report.layers] == ["head"] and report.layers[0].ok
    assert set(report.unseen) == {f"lstm.weight_{kind}_l{layer}" for kind in ("ih", "hh") for layer in range(3)}
    assert not report.ok and "not looked at: lstm.weight_ih_l0, " in str(report)
    named = check_variance(model, noise(10, 4, 16), layers="head")
    assert named.unseen == () and named.ok  # of the head alone


def test_reparametrized_and_bare_weights_and_layers_that_are_not_run_are_not_claimed() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.spare = nn.Linear(8, 8), nn.Linear(8, 8)
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
            self.matrix, self.places = nn.Parameter(torch.eye(8)), nn.Parameter(torch.zeros(1, 5, 8))
            self.norm = nn.LayerNorm((5, 8))

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.normed(self.first(x + self.places)) @ self.matrix)  # type: ignore[no-any-return]

    report = check_variance(Odd(), noise(4, 5, 8))
    assert report.unseen == ("spare (not run)", "matrix", "normed.parametrizations.weight.original1")
    assert not report.ok


def test_attention_is_seen_by_its_output() -> None:
    model = nn.TransformerEncoderLayer(32, 4, batch_first=True, dropout=0.0)
    initialize(model, "xavier", generator=torch.Generator().manual_seed(0))
    report = check_variance(model, noise(4, 6, 32))
    assert [layer.name for layer in report.layers] == ["self_attn", "linear1", "linear2"]
    assert report.unseen == () and report.ok


def test_a_head_that_is_not_read_has_no_gradient_and_the_others_are_compared_without_it() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.read, self.spare = nn.Linear(64, 64), nn.Linear(64, 3), nn.Linear(64, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.body(x).relu()
            return self.read(hidden), self.spare(hidden)

    model = Heads()
    initialize(model, "he", generator=torch.Generator().manual_seed(0))
    report = check_variance(model, noise(32, 64), loss=lambda m, b: m(b)[0].square().mean())
    assert [layer.verdict for layer in report.layers] == ["pass", "pass", "no gradient"]
    assert report.layers[1].gradient_ratio == 1 and not any(math.isnan(x.gradient_ratio) for x in report.layers)
    assert "not read by the loss" in str(report)


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
            assert layer.gradient == pytest.approx(np.linalg.norm(tensor.grad.double().numpy()), rel=1e-5)


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
    deep = nn.Sequential(*[nn.Linear(4, 4) for _ in range(11)])
    assert [layer.name for layer in check_variance(deep, noise(8, 4), layers="*0").layers] == ["0", "10"]


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
    with pytest.raises(SettingError, match="'?weight'? has no shape yet"):
        check_variance(nn.LazyLinear(2), x)
    with pytest.raises(SettingError, match="a Bilinear, which takes more than one input; pass loss="):
        check_variance(nn.Bilinear(WIDTH, WIDTH, 2), (x, x))
    with pytest.raises(SettingError, match="0 returned a single number"):
        check_variance(nn.Sequential(nn.Linear(WIDTH, 1)), x[:1])
    with pytest.raises(SettingError, match="no module of Sequential matches 'up'"):
        check_variance(model, x, layers=["up"])
    with pytest.raises(SettingError, match="frozen, or the loss is cut off"):
        check_variance(model.requires_grad_(False), x)
    with pytest.raises(SettingError, match="returns no tensor"):
        check_variance(nn.LSTM(WIDTH, 2), x)
