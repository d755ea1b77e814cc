"""muP: the coordinate check, the table of the source written out, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.layers import He, Initialized, initialize, mup_initialize, mup_rates
from lehr.models.convnet import ConvNetSettings
from lehr.models.gpt import GPTSettings
from lehr.models.gpt2 import GPT2Settings
from lehr.optim.adamw import AdamW
from lehr.optim.rules import Rule

TEXT = {"vocab_size": 11, "context": 16}


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4, bias=False)
    )


def outputs(model: nn.Sequential, x: Tensor) -> list[Tensor]:
    found = []
    with torch.no_grad():
        for layer in model:
            x = layer(x)
            if isinstance(layer, nn.Linear):
                found.append(x)
    return found


def moved(width: int, mup: bool, lr: float = 0.01) -> list[float]:
    """Return how far each layer's outputs move on average in 5 steps of Adam; the coordinate check of the source."""
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 16, generator=draws), torch.randn(64, 4, generator=draws)
    model, base = mlp(width), mlp(64)
    rates = dict.fromkeys(dict(model.named_parameters()), 1.0)
    if mup:
        mup_initialize(model, base, "he", generator=torch.Generator().manual_seed(1))
        rates = mup_rates(model, base)
    else:
        initialize(model, "he", generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam([{"params": [p], "lr": lr * rates[name]} for name, p in model.named_parameters()])
    before = outputs(model, x)
    for _ in range(5):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    return [(new - old).abs().mean().item() for new, old in zip(outputs(model, x), before, strict=True)]


def test_coordinates_move_as_far_at_every_width_where_the_standard_way_moves_wide_layers_further() -> None:
    hidden = 1
    narrow, wide = moved(64, mup=True), moved(1024, mup=True)
    assert all(1 / 3 < w / n < 3 for n, w in zip(narrow, wide, strict=True))
    assert moved(64, mup=False) == narrow  # at the base's width both are the same
    assert moved(1024, mup=False)[hidden] > 10 * narrow[hidden]


def test_rates_and_variances_are_those_of_the_table() -> None:
    """Adam, table 3: in 1/fan_in and rate 1; hidden 1/fan_in and rate 1/fan_in; out 1/fan_in^2 and rate 1/fan_in."""
    wide, base, m = mlp(512), mlp(64), 8
    rates = mup_rates(wide, base)
    assert rates == {
        "0.weight": 1.0,
        "0.bias": 1.0,
        "2.weight": 1 / m,
        "2.bias": 1.0,
        "4.weight": 1 / m,
    }
    how = mup_initialize(wide, base, generator=torch.Generator().manual_seed(0))
    wanted = {"0.weight": 1 / 16, "2.weight": 1 / 512, "4.weight": (1 / 64) / m**2}
    for name, variance in wanted.items():
        assert dict(wide.named_parameters())[name].var().item() == pytest.approx(variance, rel=0.1), name
    assert how["4.weight"].endswith("; divided by 2.828")
    assert how["2.weight"] == f"lecun normal, std {512**-0.5:.4g}"


def test_output_of_a_wide_model_starts_smaller_by_the_root_of_its_width() -> None:
    x = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    sizes = []
    for width in (64, 1024):
        square = 0.0
        for seed in range(20):
            model = mlp(width)
            mup_initialize(model, mlp(64), "he", generator=torch.Generator().manual_seed(seed))
            square += outputs(model, x)[-1].square().mean().item() / 20
        sizes.append(square)
    assert sizes[0] / sizes[1] == pytest.approx(16, rel=0.25)


def test_models_on_meta_are_enough_for_rates() -> None:
    with torch.device("meta"):
        wide, base = (GPTSettings(width=w, depth=1, heads=2).build(TEXT) for w in (32, 8))
    rates = mup_rates(wide, base)
    assert {name for name, rate in rates.items() if rate == 0.25} == {
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.out.weight",
        "blocks.0.up.weight",
        "blocks.0.down.weight",
        "head.weight",
    }
    assert rates["embedding.weight"] == 1


def test_convolutions_count_by_their_channels() -> None:
    facts = {"channels": 3, "num_classes": 5}
    wide, base = (ConvNetSettings(width=w).build(facts) for w in (12, 4))
    rates = mup_rates(wide, base)
    assert rates["features.0.weight"] == 1 and rates["features.1.weight"] == 1
    assert rates["features.3.weight"] == pytest.approx(1 / 3)
    assert rates["head.weight"] == pytest.approx(1 / 3)


def test_recipe_option_builds_the_base_without_drawing() -> None:
    option = Initialized(
        model=GPTSettings(width=32, depth=1, heads=2), rule="lecun", mup_base=GPTSettings(width=8, depth=1, heads=2)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = option.build(TEXT)
        torch.manual_seed(0)
        by_hand = GPTSettings(width=32, depth=1, heads=2).build(TEXT)
        mup_initialize(by_hand, GPTSettings(width=8, depth=1, heads=2).build(TEXT))
    for name, parameter in built.named_parameters():
        wanted = dict(by_hand.named_parameters())[name]
        assert parameter.std().item() == pytest.approx(wanted.std().item(), rel=0.3), name
    assert built.head.weight.std().item() == pytest.approx(32**-0.5 / 2, rel=0.1)


def test_meta_draws_nothing() -> None:
    with torch.random.fork_rng(devices=[]):
        state = torch.get_rng_state()
        with torch.device("meta"):
            GPTSettings(width=8, depth=1, heads=2).build(TEXT)
        assert torch.equal(torch.get_rng_state(), state)


def test_what_has_no_widths_to_compare_is_refused() -> None:
    deeper = nn.Sequential(*mlp(64), nn.Linear(4, 4))
    with pytest.raises(SettingError, match="'5.bias' is not in both; change the width alone"):
        mup_rates(deeper, mlp(64))
    tied = [GPT2Settings(width=w, depth=1, heads=2).build(TEXT) for w in (16, 8)]
    with pytest.raises(SettingError, match="'tokens.weight' is an embedding and an output layer at once"):
        mup_rates(*tied)
    for rule in ("xavier", "orthogonal", "truncated_normal", He(mode="fan_out")):
        with pytest.raises(SettingError, match="goes with 1/fan_in"):
            mup_initialize(mlp(64), mlp(64), rule)
    with pytest.raises(SettingError, match="mup_base is a Linear"):
        Initialized(model=nn.Identity, rule="he", mup_base=nn.Linear(2, 2))


def test_wider_weights_of_other_kinds_are_refused_not_given_the_rate_1() -> None:
    class Bare(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.zeros(width, width))

    makers = {
        "weight_ih_l0": lambda w: nn.LSTM(4, w),
        "parametrizations.weight.original1": lambda w: nn.utils.parametrizations.weight_norm(nn.Linear(w, w)),
        "matrix": Bare,
        "weight": lambda w: nn.Bilinear(w, w, w),
    }
    for name, make in makers.items():
        for function in (mup_rates, mup_initialize):
            with pytest.raises(SettingError, match=f"cannot tell the inputs of '{name}' from its outputs"):
                function(make(64), make(16))
    same = [nn.Sequential(nn.LSTM(4, 5), nn.Linear(w, w)) for w in (32, 8)]  # as wide as in the base: nothing to tell
    assert mup_rates(*same)["1.weight"] == 0.25 and mup_rates(*same)["0.weight_ih_l0"] == 1


def test_what_is_added_has_no_inputs() -> None:
    class Positions(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.places, self.scale = nn.Parameter(torch.zeros(1, 7, width)), nn.Parameter(torch.ones(width, 1, 1))
            self.norm = nn.LayerNorm((7, width))

    assert set(mup_rates(Positions(64), Positions(16)).values()) == {1.0}


def test_a_base_with_other_modules_or_kernels_is_refused() -> None:
    pairs = {
        "'1' is not in both": (nn.Sequential(nn.Linear(3, 8), nn.ReLU()), nn.Sequential(nn.Linear(3, 4))),
        "'0' is not in both": (nn.Sequential(nn.ReLU()), nn.Sequential(nn.GELU())),
        r"'Conv2d' has kernel_size \(5, 5\) and \(3, 3\)": (nn.Conv2d(3, 64, 5), nn.Conv2d(3, 16, 3)),
        r"'Conv2d' has stride \(2, 2\) and \(1, 1\)": (nn.Conv2d(3, 64, 3, 2), nn.Conv2d(3, 16, 3)),
        "weight has no shape yet": (nn.LazyLinear(4), nn.LazyLinear(2)),
    }
    for message, (wide, base) in pairs.items():
        with pytest.raises(SettingError, match=message):
            mup_rates(wide, base)


def test_depthwise_convolutions_have_one_input_at_any_width() -> None:
    wide, base = (nn.Sequential(nn.Conv2d(w, w, 3, groups=w), nn.Conv2d(w, w, 1)) for w in (64, 16))
    rates = mup_rates(wide, base)
    assert (rates["0.weight"], rates["1.weight"]) == (1, 0.25)


def test_values_that_are_drawn_are_those_of_the_card() -> None:
    """Embeddings are N(0, 1) and biases 0 at any width, as `initialize` does it."""
    wide, base = (nn.Sequential(nn.Embedding(50, w), nn.LayerNorm(w), nn.Linear(w, 4)) for w in (64, 16))
    how = mup_initialize(wide, base, generator=torch.Generator().manual_seed(0))
    assert (how["0.weight"], how["1.weight"], how["2.bias"]) == ("normal, std 1", "ones", "zeros")


def test_rates_become_rules_of_an_optimizer() -> None:
    wide, base = mlp(512), mlp(64)
    rates = mup_rates(wide, base)
    rules = tuple(Rule(pattern=name, rate=rate) for name, rate in rates.items() if rate != 1)
    [optimizer] = AdamW(lr=0.1, rules=rules).build(wide)
    lr_of = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in wide.named_parameters():
        assert lr_of[parameter] == pytest.approx(0.1 * rates[name]), name
