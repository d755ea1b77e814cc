"""Initial weights against torch's own functions and the sources' formulas; which layer gets what."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Mlp
from helpers import recipe as small
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lehr
from lehr.base.errors import SettingError
from lehr.base.settings import override
from lehr.layers import (
    ACTIVATIONS,
    RULES,
    He,
    Initialized,
    LeCun,
    Orthogonal,
    TruncatedNormal,
    Xavier,
    for_activation,
    initialize,
    scale_residual,
)
from lehr.layers.filling import Rule, matrices
from lehr.layers.he import he_gain
from lehr.models.convnet import ConvNetSettings
from lehr.models.gpt2 import GPT2Settings
from lehr.models.seq2seq import Seq2SeqSettings

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer_of(shape: tuple[int, int], rule: Rule) -> nn.Linear:
    layer = nn.Linear(shape[1], shape[0])
    initialize(layer, rule, generator=seeded(5))
    return layer


@settings(max_examples=20, deadline=None, derandomize=True)
@given(shape=SHAPES, slope=st.floats(0, 1))
def test_rules_are_those_of_torch_for_linear_layers(shape: tuple[int, int], slope: float) -> None:
    leaky, init = He(activation="leaky_relu", slope=slope), nn.init
    kaiming = {"a": slope, "nonlinearity": "leaky_relu", "generator": seeded(5)}
    pairs = [
        (Xavier(), lambda w: init.xavier_uniform_(w, generator=seeded(5))),
        (Xavier(distribution="normal", gain=2), lambda w: init.xavier_normal_(w, 2, generator=seeded(5))),
        (He(), lambda w: init.kaiming_normal_(w, nonlinearity="relu", generator=seeded(5))),
        (leaky, lambda w: init.kaiming_normal_(w, **kaiming)),
        (
            He(mode="fan_out", distribution="uniform"),
            lambda w: init.kaiming_uniform_(w, mode="fan_out", nonlinearity="relu", generator=seeded(5)),
        ),
        (LeCun(), lambda w: init.normal_(w, std=1 / math.sqrt(shape[1]), generator=seeded(5))),
        (Orthogonal(), lambda w: init.orthogonal_(w, generator=seeded(5))),
        (TruncatedNormal(), lambda w: init.trunc_normal_(w, std=0.02, a=-0.04, b=0.04, generator=seeded(5))),
    ]
    for rule, torchs in pairs:
        layer, wanted = layer_of(shape, rule), torch.empty(shape)
        torchs(wanted)
        assert torch.allclose(layer.weight, wanted, atol=1e-6), rule
        assert torch.equal(layer.bias, torch.zeros(shape[0]))


def test_numbers_of_the_formulas() -> None:
    xavier, he, lecun = layer_of((300, 500), Xavier()), layer_of((300, 500), He()), layer_of((300, 500), LeCun())
    limit = math.sqrt(6 / 800)
    assert 0.999 * limit < xavier.weight.abs().max().item() <= limit
    assert xavier.weight.var().item() == pytest.approx(2 / 800, rel=0.02)
    assert he.weight.var().item() == pytest.approx(2 / 500, rel=0.02)
    assert lecun.weight.std().item() == pytest.approx(1 / math.sqrt(500), rel=0.01)


def test_the_function_of_the_guide_is_fan_out_while_its_formula_is_fan_in() -> None:
    """Its init_weights passes mode="fan_out"; 512 -> 128 then has four times the variance of the formula 2/n_in."""
    by_formula, by_code = nn.Linear(512, 128), nn.Linear(512, 128)
    initialize(by_formula, "he", generator=seeded())
    initialize(by_code, He(mode="fan_out"), generator=seeded())
    assert by_formula.weight.var().item() == pytest.approx(2 / 512, rel=0.02)
    assert by_code.weight.var().item() == pytest.approx(2 / 128, rel=0.02)
    x = torch.randn(2000, 512, generator=seeded(1)).relu() * math.sqrt(2)  # mean square 1
    assert by_formula(x).square().mean().item() == pytest.approx(2, rel=0.1)
    assert by_code(x).square().mean().item() == pytest.approx(8, rel=0.1)


def test_init_weights_of_the_guide_with_apply_is_initialize() -> None:
    def init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=draws)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    models = [
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
        for _ in range(2)
    ]
    draws = seeded(2)
    models[0].apply(init_weights)
    initialize(models[1], He(mode="fan_out"), generator=seeded(2))
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_leaky_relu_without_its_slope_is_relu() -> None:
    """kaiming's a is 0 unless given, whatever nonlinearity is named."""
    relu, forgotten = torch.empty(20, 30), torch.empty(20, 30)
    nn.init.kaiming_normal_(relu, nonlinearity="relu", generator=seeded())
    nn.init.kaiming_normal_(forgotten, nonlinearity="leaky_relu", generator=seeded())
    assert torch.equal(relu, forgotten)
    assert he_gain("leaky_relu", 0.0) == he_gain("relu")
    assert he_gain("leaky_relu", 0.2) == pytest.approx(math.sqrt(2 / 1.04))
    assert for_activation("leaky_relu", slope=0.2) == He(activation="leaky_relu", slope=0.2)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu", "silu"])
def test_gains_restore_the_mean_square(name: str) -> None:
    z = np.linspace(-12, 12, 200_001)
    f = getattr(nn.functional, name)(torch.tensor(z)).numpy()
    mean_square = np.sum(f**2 * np.exp(-(z**2) / 2)) * (z[1] - z[0]) / math.sqrt(2 * math.pi)
    assert he_gain(name) ** 2 * mean_square == pytest.approx(1, rel=1e-6)  # type: ignore[arg-type]


def test_table_of_activations() -> None:
    kinds = {name: type(for_activation(name)).__name__ for name in ACTIVATIONS}
    assert kinds == {
        "sigmoid": "Xavier",
        "tanh": "Xavier",
        "relu": "He",
        "leaky_relu": "He",
        "gelu": "He",
        "silu": "He",
        "selu": "LeCun",
        "linear": "LeCun",
    }
    assert for_activation("leaky_relu") == He(activation="leaky_relu", slope=nn.LeakyReLU().negative_slope)


@pytest.mark.parametrize(
    ("name", "options"), [("relu", {}), ("leaky_relu", {"slope": 0.3}), ("selu", {}), ("linear", {}), ("gelu", {})]
)
def test_activations_keep_their_size_over_twenty_layers(name: str, options: dict[str, float]) -> None:
    def activation(x: Tensor) -> Tensor:
        if name == "linear":
            return x
        f = getattr(nn.functional, name)
        return f(x, options["slope"]) if options else f(x)  # type: ignore[no-any-return]

    layers = nn.ModuleList(nn.Linear(400, 400) for _ in range(20))
    initialize(layers, for_activation(name, **options), generator=seeded())
    x = torch.randn(100, 400, generator=seeded(1))
    for layer in layers:
        x = activation(layer(x))
    assert 0.3 < x.square().mean().sqrt().item() < 3


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(32, 48, 5, padding=2, padding_mode="circular", bias=False),
        nn.Conv2d(16, 32, 3, padding=1, padding_mode="circular", bias=False),
        nn.Conv2d(16, 32, 4, stride=2, padding=1, padding_mode="circular", bias=False),
        nn.Conv2d(32, 64, 3, padding=1, padding_mode="circular", groups=4, bias=False),
        nn.ConvTranspose2d(32, 16, 4, stride=2, bias=False),
        nn.ConvTranspose2d(32, 16, 2, stride=2, groups=2, bias=False),
        nn.Linear(100, 300, bias=False),
    ],
    ids=repr,
)
def test_fans_are_what_keeps_the_variance(layer: nn.Module) -> None:
    """Weights of variance 1/fan_in keep that of the output, of variance 1/fan_out that of the input's gradient."""
    [matrix] = matrices(layer)
    shape = {nn.Linear: (300, 100)}.get(type(layer), (40, matrix.values.shape[1], *[24] * (matrix.values.ndim - 2)))
    if not isinstance(layer, nn.Linear):
        shape = (30, layer.in_channels, *shape[2:])
    x = torch.randn(shape, generator=seeded(1), requires_grad=True)
    inner = (slice(None), slice(None), *[slice(4, -4)] * (x.ndim - 2))  # away from the borders
    nn.init.normal_(matrix.values, std=matrix.fan_in**-0.5, generator=seeded(2))
    assert layer(x)[inner].var().item() == pytest.approx(1, rel=0.1)
    nn.init.normal_(matrix.values, std=matrix.fan_out**-0.5, generator=seeded(2))
    out = layer(x)
    out.backward(torch.randn(out.shape, generator=seeded(3)))
    assert x.grad is not None
    assert x.grad[inner].var().item() == pytest.approx(1, rel=0.1)


def test_orthogonal_weights_neither_stretch_nor_shrink() -> None:
    model = nn.Sequential(*[nn.Linear(32, 32, bias=False) for _ in range(50)])
    initialize(model, "orthogonal", generator=seeded())
    x = torch.randn(4, 32, generator=seeded(1))
    assert torch.allclose(model(x).norm(dim=1), x.norm(dim=1), rtol=1e-4)
    kernel = nn.Conv2d(2, 8, 3)
    initialize(kernel, Orthogonal(gain=2.0), generator=seeded())
    rows = kernel.weight.flatten(1)
    assert torch.allclose(rows @ rows.T, 4 * torch.eye(8), atol=1e-5)


@pytest.mark.parametrize("groups", [4, 32])
def test_orthogonal_is_for_each_group_a_matrix(groups: int) -> None:
    layer = nn.Conv2d(32, 64, 3, groups=groups, bias=False)
    initialize(layer, Orthogonal(gain=0.5), generator=seeded())
    for part in layer.weight.flatten(1).chunk(groups):  # (64/groups, 9·32/groups): fewer rows than columns
        assert torch.allclose(part @ part.T, 0.25 * torch.eye(len(part)), atol=1e-6)
    x = torch.randn(8, 32, 16, 16, generator=seeded(1))
    assert layer(x).std().item() == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("settings", [(2, 2, 1), (3, 1, 1), (4, 2, 1), (3, 2, 4), (2, 3, 1)], ids=str)
def test_orthogonal_transposed_convolutions_keep_the_size(settings: tuple[int, int, int]) -> None:
    """Each place of the output adds up the taps that meet there; these, and not all of the kernel, are its matrix."""
    taps, stride, groups = settings
    layer = nn.ConvTranspose2d(32, 32, taps, stride=stride, groups=groups, bias=False)
    initialize(layer, "orthogonal", generator=seeded())
    x = torch.randn(16, 32, 20, 20, generator=seeded(1))
    reached = layer(x)[:, :, 4:-4, 4:-4]
    assert reached[reached != 0].std().item() == pytest.approx(1, rel=0.05)
    if taps == stride:  # nothing overlaps: each output place sees its input turned
        assert torch.allclose(layer(x).square().sum((1, 2, 3)), stride**2 * x.square().sum((1, 2, 3)), rtol=1e-4)


def test_maps_of_a_transposed_convolution_are_all_of_its_weights_once() -> None:
    layer = nn.ConvTranspose2d(4, 6, (5, 3), stride=(4, 2), dilation=(2, 1), groups=2)
    [matrix] = matrices(layer)
    with torch.no_grad():
        layer.weight.zero_()
        for part in matrix.maps:
            part += 1
    assert bool((layer.weight == 1).all())
    assert {tuple(part.shape[:2]) for part in matrix.maps} == {(3, 2)}
    assert len(matrix.maps) == 2 * 2 * 2  # groups, and phases: with dilation 2 only every second of 4 is reached


def test_half_precision_is_orthogonal() -> None:
    for kind in (torch.float16, torch.bfloat16):
        layer = nn.Linear(40, 30, dtype=kind)
        initialize(layer, "orthogonal", generator=seeded())
        rows = layer.weight.float()
        assert layer.weight.dtype == kind and torch.allclose(rows @ rows.T, torch.eye(30), atol=0.02)


def test_torchs_fans_count_groups_on_one_side_only_and_no_strides() -> None:
    for layer, fans in ((nn.Conv2d(64, 64, 3, groups=8), (72, 72)), (nn.Conv2d(64, 64, 2, stride=2), (256, 64))):
        [matrix] = matrices(layer)
        assert (matrix.fan_in, matrix.fan_out) == fans
    fans_of = nn.init._calculate_fan_in_and_fan_out
    assert fans_of(nn.Conv2d(64, 64, 3, groups=8).weight) == (72, 576)
    assert fans_of(nn.Conv2d(64, 64, 2, stride=2).weight) == (256, 256)


def test_padding_of_a_tied_embedding_stays_zero() -> None:
    embedding, head = nn.Embedding(50, 8, padding_idx=3), nn.Linear(8, 50, bias=False)
    head.weight = embedding.weight
    initialize(nn.ModuleList([embedding, head]), "lecun", generator=seeded())
    assert [row for row in range(50) if not bool(head.weight[row].any())] == [3]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_weights_has_nothing_to_draw() -> None:
    assert initialize(nn.Linear(0, 3), "he") == {"weight": "empty", "bias": "zeros"}


def test_a_tied_end_is_scaled_once_and_one_without_shape_is_refused() -> None:
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)])
    model[1].weight = model[0].weight
    before = [layer.weight.detach().clone() for layer in model]
    assert scale_residual(model, "*") == ["0", "1", "2"]
    for layer, was in zip(model, before, strict=True):
        assert torch.allclose(layer.weight, was / math.sqrt(3))
    with pytest.raises(SettingError, match="0.weight has no shape yet"):
        scale_residual(nn.Sequential(nn.LazyLinear(2)), "0")


def test_truncated_normal_cuts_and_is_then_narrower() -> None:
    values = layer_of((400, 400), TruncatedNormal(std=0.02)).weight
    assert values.abs().max().item() <= 0.04
    phi = math.exp(-2) / math.sqrt(2 * math.pi)
    kept = math.erf(2 / math.sqrt(2))
    assert values.std().item() == pytest.approx(0.02 * math.sqrt(1 - 4 * phi / kept), rel=0.01)
    assert layer_of((400, 400), TruncatedNormal(std=0.02, cut=10)).weight.std().item() == pytest.approx(0.02, rel=0.01)


def test_what_each_parameter_got_is_told() -> None:
    model = nn.ModuleDict(
        {
            "embedding": nn.Embedding(10, 16, padding_idx=3),
            "lstm": nn.LSTM(16, 16),
            "norm": nn.LayerNorm(16),
            "group": nn.GroupNorm(2, 16),
            "rms": nn.RMSNorm(16),
            "batch": nn.BatchNorm1d(16),
            "up": nn.ConvTranspose1d(16, 8, 2, stride=2),
        }
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    how = initialize(model, "he", generator=seeded())
    assert set(how) == dict(model.named_parameters()).keys()
    assert how["embedding.weight"] == "normal, std 1"
    assert how["up.weight"] == "he normal, std 0.3536, fan_in"  # 16 inputs of 2 taps, of which each output meets one
    assert {how[f"{name}.weight"] for name in ("norm", "group", "rms", "batch")} == {"ones"}
    assert how["up.bias"] == how["norm.bias"] == "zeros"
    left = {name for name, text in how.items() if text == "left as it was"}
    assert left == {name for name in how if name.startswith("lstm")}
    for name, parameter in model.named_parameters():
        assert bool((parameter == 7).all()) == (name in left)
        if how[name] in {"ones", "zeros"}:
            assert bool((parameter == {"ones": 1, "zeros": 0}[how[name]]).all())
    assert not bool(model["embedding"].weight[3].any())
    assert model["embedding"].weight.std().item() == pytest.approx(1, rel=0.3)


def test_attention_counts_as_three_matrices() -> None:
    """Torch gives the stacked matrix the fans of one that is three times as high."""
    for kind, names in (
        (nn.MultiheadAttention(64, 4, bias=True), ["in_proj_weight"]),
        (nn.MultiheadAttention(64, 4, kdim=16, vdim=32), ["q_proj_weight", "k_proj_weight", "v_proj_weight"]),
    ):
        how = initialize(kind, Xavier(distribution="normal"), generator=seeded())
        assert how["in_proj_bias"] == "zeros" and not bool(kind.in_proj_bias.any())
        for name in names:
            values = getattr(kind, name)
            fans = sum(values.shape) if len(names) == 3 else 128
            assert values.std().item() == pytest.approx(math.sqrt(2 / fans), rel=0.05)
        assert kind.out_proj.weight.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.05)


def test_a_tied_weight_is_the_output_layers() -> None:
    model = GPT2Settings(width=64, depth=1, heads=2).build({"vocab_size": 300, "context": 8})
    assert model.head.weight is model.tokens.weight
    how = initialize(model, "lecun", generator=seeded())
    assert how["tokens.weight"] == "lecun normal, std 0.125"
    assert model.tokens.weight.std().item() == pytest.approx(0.125, rel=0.05)
    assert how["positions.weight"] == "normal, std 1"


def test_a_transformer_of_torchs_layers_is_covered() -> None:
    facts = {"source_vocab_size": 9, "target_vocab_size": 8, "source_length": 6, "target_length": 7}
    model = Seq2SeqSettings(width=16, depth=1, heads=2).build(facts)
    assert "left as it was" not in initialize(model, "xavier", generator=seeded()).values()


def test_draws_follow_the_generator_alone() -> None:
    models = [nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)) for _ in range(2)]
    state = torch.get_rng_state()
    for model in models:
        initialize(model, "he", generator=seeded(4))
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_gpt2s_own_initialization_is_a_rule_with_scaled_ends() -> None:
    facts = {"vocab_size": 64, "context": 8}
    option = Initialized(
        model=GPT2Settings(width=128, depth=8, heads=2),
        rule=TruncatedNormal(cut=10),
        scaled_ends=("blocks.*.out", "blocks.*.down"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, own = option.build(facts), option.model.build(facts)
    for name, parameter in model.named_parameters():
        wanted = dict(own.named_parameters())[name]
        assert parameter.float().std().item() == pytest.approx(wanted.float().std().item(), rel=0.1), name


def test_recipe_takes_the_option_and_its_settings() -> None:
    facts = {"channels": 1, "num_classes": 3}
    made = small(model=Initialized(model=ConvNetSettings(width=4), rule="he"))
    changed = override(made, ["model.rule.mode=fan_out", "model.model.width=6"])
    assert (changed.model.rule.mode, changed.model.model.width) == ("fan_out", 6)
    assert override(made, ["model.rule=orthogonal"]).model.rule == Orthogonal()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = override(made, ["model.model.width=48"]).model.build(facts)
    convolution = model.get_submodule("features.3")
    assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 48)), rel=0.05)


def test_a_run_starts_from_it(tmp_path: Path) -> None:
    made = small(model=Initialized(model=Mlp, rule="orthogonal", zero_ends=("last",)), schedule="constant", steps=1)
    result = lehr.train(made, run_dir=tmp_path / "run")
    # all scores are 0 before the first step, so its loss is that of a guess among three
    assert result.train_loss == pytest.approx(math.log(3), abs=1e-6)


def test_what_cannot_be_initialized_is_refused() -> None:
    linear = nn.Linear(2, 2)
    with pytest.raises(SettingError, match=r"unknown initialization 'xavir' \(did you mean 'xavier'\?\)"):
        initialize(linear, "xavir")
    with pytest.raises(SettingError, match=r"unknown activation 'rellu' \(did you mean 'relu'\?\)"):
        for_activation("rellu")
    with pytest.raises(SettingError, match="relu takes no slope"):
        for_activation("relu", slope=0.1)
    with pytest.raises(SettingError, match="slope=0.3 is of activation='leaky_relu' alone"):
        He(slope=0.3)
    with pytest.raises(SettingError, match="is no initialization; give settings such as"):
        initialize(linear, nn.init.zeros_)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="is no initialization"):
        initialize(linear, He)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="no layer that initialize knows"):
        initialize(nn.Sequential(nn.ReLU()), "he")
    with pytest.raises(SettingError, match="weight has no shape yet"):
        initialize(nn.LazyLinear(2), "he")
    with pytest.raises(SettingError, match="model is a Linear; give what makes a model"):
        Initialized(model=linear, rule="he")
    with pytest.raises(SettingError, match="did you mean 'he'"):
        Initialized(model=nn.Identity, rule="hee")
    for refused in ({"gain": 0.0}, {"gain": -1.0}, {"distribution": "cauchy"}):
        with pytest.raises(SettingError):
            Xavier(**refused)
    assert list(RULES) == ["xavier", "he", "lecun", "orthogonal", "truncated_normal"]


def test_every_rule_has_a_card() -> None:
    cards = Path(lehr.__file__).parent / "cards"
    assert [name for name in RULES if not (cards / f"{name.replace('_', '-')}.md").is_file()] == []
