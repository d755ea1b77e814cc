"""Which layers can be replaced and why not the others; replacing them; what a checkpoint says of them."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lehr.base.errors import NoEffectWarning, SettingError
from lehr.base.seeds import generator
from lehr.layers import DropConnectLinear
from lehr.lowrank import (
    FourTensorLinear,
    LoRALinear,
    LowRankConv2d,
    LowRankLinear,
    SplitAttention,
    candidates,
    described,
    exchange,
    low_rank,
    make_dense,
    rebuilt,
    split_attention,
)
from lehr.models.gpt import GPTSettings
from lehr.models.seq2seq import Seq2SeqSettings


class Zoo(nn.Module):
    """Layers that can be replaced, and one of each kind that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.plain = nn.Linear(32, 32)
        self.conv = nn.Conv2d(8, 16, 3)
        self.attention = nn.MultiheadAttention(32, 2)
        self.dropped = DropConnectLinear(32, 32)
        self.normed = parametrizations.weight_norm(nn.Linear(32, 32))
        self.lazy = nn.LazyLinear(32)
        self.shared = nn.Linear(32, 32)
        self.sharing = nn.Linear(32, 32)
        self.sharing.weight = self.shared.weight
        self.grouped = nn.Conv2d(32, 32, 3, groups=2)
        self.frozen = nn.Linear(32, 32).requires_grad_(False)
        self.hooked = nn.Linear(32, 32)
        self.hooked.register_forward_hook(lambda *_: None)
        self.sparse = nn.Linear(32, 32)
        self.sparse.weight = nn.Parameter(torch.eye(32).to_sparse())
        self.counted = nn.Linear(32, 32)
        self.counted.weight = nn.Parameter(torch.ones(32, 32, dtype=torch.int8), requires_grad=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the old way is deprecated, and still met
            self.computed = nn.utils.weight_norm(nn.Linear(32, 32))
        self.thin = nn.Linear(32, 4)
        self.adapted = LoRALinear.from_linear(nn.Linear(32, 32), 2)
        self.already = LowRankConv2d.from_conv(nn.Conv2d(32, 32, 3), 4)
        self.tied = nn.Linear(32, 40)
        self.tied.weight = self.embedding.weight
        self.head = nn.Linear(32, 40)


REASONS = {
    "plain": None,
    "conv": None,
    "attention.out_proj": "split_attention makes layers of its parts",
    "dropped": "a DropConnectLinear with a forward of its own",
    "normed": "parametrized",
    "lazy": "no shape before its first forward pass",
    "shared": "shares its weight with 'sharing'",
    "sharing": "shares its weight with 'shared'",
    "grouped": "2 groups",
    "frozen": "its weight is frozen",
    "hooked": "hooks are on it",
    "sparse": "sparse or not of floating-point",
    "counted": "sparse or not of floating-point",
    "computed": "computed from others",
    "thin": "below min_size=8",
    "tied": "tied to the embedding 'embedding'",
    "head": "the last layer",
}


def test_each_layer_has_its_reason() -> None:
    found = {candidate.name: candidate for candidate in candidates(Zoo(), min_size=8)}
    assert list(found) == list(REASONS), "layers within those of the package are not listed"
    for name, reason in REASONS.items():
        told = found[name].reason
        assert (told is None) == (reason is None) and (reason is None or reason in told), (name, told)
    assert found["conv"].shape == (16, 72) and found["conv"].kind == "convolution"
    assert found["plain"].shape == (32, 32) and found["plain"].kind == "linear"


def test_choices_change_which_can_be_replaced() -> None:
    def free(**choices: object) -> set[str]:
        return {c.name for c in candidates(Zoo(), **{"min_size": 8} | choices) if c.reason is None}  # type: ignore[arg-type]

    assert free() == {"plain", "conv"}
    assert free(first_and_last=True) == {"plain", "conv", "head"}
    assert free(frozen=True) == {"plain", "conv", "frozen"}
    assert free(min_size=4) == {"plain", "conv", "thin"}
    assert free(min_size=32) == {"plain"}
    assert free(include=["pl*"]) == {"plain"} and free(exclude=["pl*"]) == {"conv"}
    with pytest.raises(SettingError, match="'planes' matches no nn.Linear or nn.Conv2d of Zoo"):
        free(include=["planes"])


def test_first_layer_is_kept_unless_an_embedding_comes_before_it() -> None:
    layers = [nn.Linear(8, 8) for _ in range(3)]
    assert [c.reason is None for c in candidates(nn.Sequential(*layers), min_size=8)] == [False, True, False]
    behind = nn.Sequential(nn.Embedding(5, 8), *layers)
    assert [c.reason is None for c in candidates(behind, min_size=8)] == [True, True, False]
    assert [c.reason is None for c in candidates(nn.Linear(8, 8), min_size=1, first_and_last=True)] == [False]


def test_models_of_the_package() -> None:
    gpt = GPTSettings(width=32, depth=2, heads=2, tie=True).build({"vocab_size": 50, "context": 8})
    reasons = {c.name: c.reason for c in candidates(gpt, min_size=32)}
    assert "tied to the embedding" in str(reasons.pop("head"))
    assert set(reasons.values()) == {None} and len(reasons) == 8
    facts = {"source_vocab_size": 40, "target_vocab_size": 40, "source_length": 6, "target_length": 6}
    model = Seq2SeqSettings(width=32, depth=1, heads=2, dropout=0.0).build(facts)
    source, target = torch.randint(3, 40, (2, 6)), torch.randint(3, 40, (2, 6))
    before = model(source, target)
    assert split_attention(model) == [
        "encoder.layers.0.self_attn",
        "decoder.layers.0.self_attn",
        "decoder.layers.0.multihead_attn",
    ]
    assert torch.allclose(model(source, target), before, atol=1e-5)
    names = [c.name for c in candidates(model, min_size=32) if c.reason is None]
    assert len(names) == 3 * 4 + 2 * 2
    low_rank(model, rank=dict.fromkeys(names, 8))
    model(source, target).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "layers" in n)


def test_exchange_keeps_the_place_the_mode_and_every_name() -> None:
    shared = nn.Linear(8, 8)
    model = nn.Sequential(shared, nn.Sequential(nn.ReLU(), shared), nn.Linear(8, 8)).eval()
    new = LowRankLinear.from_linear(shared, 8)
    x = torch.randn(2, 8, generator=generator(0, "x"))
    before = model(x)
    assert exchange(model, "1.1", new.train()) is shared
    assert model[0] is model[1][1] is new and not new.training
    assert [name for name, _ in model.named_children()] == ["0", "1", "2"]
    assert torch.allclose(model(x), before, atol=1e-5)
    exchange(model, "0", shared)
    assert model[0] is model[1][1] is shared and torch.equal(model(x), before)


def test_exchange_moves_to_the_device() -> None:
    model = nn.Sequential(nn.Linear(8, 8, device="meta"))
    exchange(model, "0", LowRankLinear(8, 8, 2))
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_a_layer_can_hold_the_one_whose_place_it_takes() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    base = model[0]
    exchange(model, "0", LoRALinear.from_linear(base, 2))
    assert model[0].base is base


def test_exchange_that_cannot_work_is_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with pytest.raises(SettingError, match="has no module '2'.*its first modules: 0, 1"):
        exchange(model, "2", nn.Identity())
    with pytest.raises(SettingError, match="cannot be replaced in itself"):
        exchange(model, "", nn.Identity())
    handle = model[0].register_forward_pre_hook(lambda *_: None)
    with pytest.raises(SettingError, match="hooks are on 0"):
        exchange(model, "0", nn.Identity())
    handle.remove()
    exchange(model, "0", nn.Identity())


@pytest.mark.parametrize("make", [LowRankLinear.from_linear, FourTensorLinear.from_linear, LoRALinear.from_linear])
def test_whole_model_at_once(make: object) -> None:
    """Plan 1: all layers but the last, at 10 % of the smaller side."""
    model = nn.Sequential(nn.Embedding(5, 160), nn.Linear(160, 320), nn.Linear(320, 160), nn.Linear(160, 5))
    made = low_rank(model, ratio=0.1, make=make)  # type: ignore[arg-type]
    assert made == {"1": 16, "2": 16}
    assert [type(layer).__name__ for layer in model][3] == "Linear" and type(model[1]) is type(
        model[2]
    ) is not nn.Linear
    before = model(torch.arange(5))
    assert make_dense(model) == ["1", "2"]
    assert [type(layer) for layer in model[1:]] == [nn.Linear] * 3
    assert torch.allclose(model(torch.arange(5)), before, atol=1e-4)


def test_ranks_and_layers_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(64, 64))
    assert low_rank(model, rank={"1": 3, "3": 5}) == {"1": 3, "3": 5}
    assert isinstance(model[1], LowRankConv2d) and model[1].rank == 3 and model[3].rank == 5
    balanced = nn.Sequential(nn.Linear(64, 64))
    low_rank(balanced, rank=4, names=["0"], make=partial(LowRankLinear.from_linear, balance="row_norm"))
    assert balanced[0].rank == 4


def test_plan_that_cannot_work_is_refused_before_anything_changes() -> None:
    model = nn.Sequential(nn.Embedding(40, 16), nn.Linear(16, 16), nn.Linear(16, 40), nn.ReLU())
    model[2].weight = model[0].weight
    before = copy.deepcopy(model)
    for what, message in (
        ({"rank": {"1": 4, "2": 4}}, "2 cannot be replaced: its weight is tied to the embedding '0'"),
        ({"rank": 8, "names": ["1"]}, r"break-even is at m n/\(m \+ n\) = 8\.0; use 1\.\.7"),
        ({"rank": 4, "names": ["3"]}, "'3' is no nn.Linear or nn.Conv2d of Sequential.*its first ones: 1, 2"),
        ({"rank": 4, "ratio": 0.1}, "give exactly one of them"),
        ({}, "give exactly one of them"),
        ({"ratio": 1.5}, "ratio=1.5"),
        ({"rank": {"1": 4}, "names": ["1"]}, "leave names out"),
    ):
        with pytest.raises(SettingError, match=message):
            low_rank(model, **what)  # type: ignore[arg-type]
    assert repr(model) == repr(before)
    with pytest.warns(NoEffectWarning, match="candidates says why"):
        assert low_rank(model, ratio=0.1) == {}


def test_guides_rule_by_size_against_the_reasons_here() -> None:
    """Its rule, in * out > 512^2, takes a tied output layer and leaves what is worth replacing."""
    model = nn.ModuleDict(
        {"embedding": nn.Embedding(1200, 256), "hidden": nn.Linear(256, 256), "head": nn.Linear(256, 1200)}
    )
    model["head"].weight = model["embedding"].weight
    by_size = [name for name, m in model.items() if isinstance(m, nn.Linear) and m.weight.numel() > 512**2]
    assert by_size == ["head"]
    assert [c.name for c in candidates(model) if c.reason is None] == ["hidden"]


def whole() -> nn.Sequential:
    """Return a model with a layer of every kind that can be described."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2),
        nn.Flatten(2),
        nn.Linear(16, 12),
        nn.Linear(12, 12, bias=False),
        nn.Linear(12, 8),
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
    )
    return model.eval()


def changed() -> nn.Sequential:
    model = whole()
    exchange(model, "0", LowRankConv2d.from_conv(model[0], 4))
    exchange(model, "2", LowRankLinear.from_linear(model[2], 5))
    exchange(model, "3", FourTensorLinear.from_linear(model[3], 4))
    exchange(model, "4", LoRALinear.from_linear(model[4], 2, alpha=8, dropout=0.25))
    split_attention(model)
    exchange(model, "5.self_attn.v_proj", LowRankLinear.from_linear(model[5].self_attn.v_proj, 3))
    with torch.no_grad():
        for place, parameter in enumerate(model.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(place, "change")))
    return model


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=generator(0, "images"))


def restored(model: nn.Module, descriptions: dict[str, dict[str, object]]) -> nn.Module:
    for name, description in descriptions.items():
        exchange(model, name, rebuilt(model.get_submodule(name), description))
    return model


def test_description_round_trip_of_every_kind() -> None:
    model = changed()
    told = json.loads(json.dumps(described(model)))
    assert told == {
        "0": {"kind": "LowRankConv2d", "rank": 4},
        "2": {"kind": "LowRankLinear", "rank": 5},
        "3": {"kind": "FourTensorLinear", "rank": 4},
        "4": {"kind": "LoRALinear", "rank": 2, "alpha": 8.0, "dropout": 0.25},
        "5.self_attn": {"kind": "SplitAttention"},
        "5.self_attn.v_proj": {"kind": "LowRankLinear", "rank": 3},
    }
    fresh = restored(whole(), told)
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh(images()), model(images()))
    assert described(fresh) == told and not any(module.training for module in fresh.modules())
    grads = [{n: p.requires_grad for n, p in m.named_parameters()} for m in (fresh, model)]
    assert grads[0] == grads[1]


def test_going_back_to_dense_is_the_same_function_and_the_first_models_names() -> None:
    model = changed()
    wanted = model(images())
    assert make_dense(model) == ["0", "2", "3", "4", "5.self_attn"]
    assert described(model) == {}
    assert torch.allclose(model(images()), wanted, atol=1e-4)
    other = whole()
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.allclose(other(images()), wanted, atol=1e-4)


def linear_kinds() -> Iterator[nn.Module]:
    for rank in (2, 4):
        yield LowRankLinear.from_linear(nn.Linear(9, 6), rank)
        yield FourTensorLinear.from_linear(nn.Linear(9, 6), rank)
        yield LoRALinear.from_linear(nn.Linear(9, 6), rank)
    yield nn.Linear(9, 6)


def test_any_kind_follows_any_other() -> None:
    for one in linear_kinds():
        for other in linear_kinds():
            told = described(nn.Sequential(other)).get("0", {"kind": "dense"})
            made = rebuilt(one.double().eval(), told)
            assert type(made) is type(other) and not made.training
            assert {name: p.shape for name, p in made.named_parameters()} == {
                name: p.shape for name, p in other.named_parameters()
            }
            assert {p.dtype for p in made.parameters()} == {torch.float64}
    for old in (nn.Conv2d(4, 6, 3), LowRankConv2d.from_conv(nn.Conv2d(4, 6, 3), 2)):
        assert rebuilt(old, {"kind": "LowRankConv2d", "rank": 5}).rank == 5
        assert type(rebuilt(old, {"kind": "dense"})) is nn.Conv2d
    split = SplitAttention.from_multihead(nn.MultiheadAttention(8, 2))
    assert type(rebuilt(split, {"kind": "dense"})) is nn.MultiheadAttention
    assert type(rebuilt(split, {"kind": "SplitAttention"})) is SplitAttention


def test_dense_form_of_a_dense_layer_is_itself() -> None:
    layer = nn.Linear(3, 2)
    assert rebuilt(layer, {"kind": "dense"}) is layer


def test_descriptions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SettingError, match=r"unknown kind of layer 'LowRankLiner' \(did you mean 'LowRankLinear'\?\)"):
        rebuilt(nn.Linear(3, 2), {"kind": "LowRankLiner", "rank": 1})
    with pytest.raises(SettingError, match="a LowRankConv2d takes the place of an Conv2d, not of a Linear"):
        rebuilt(nn.Linear(3, 2), {"kind": "LowRankConv2d", "rank": 1})


def test_nothing_is_drawn_from_the_global_generator() -> None:
    model = whole()
    state = torch.get_rng_state()
    split_attention(model)
    low_rank(model, rank=2, names=["2", "3"])
    restored(whole_again := copy.deepcopy(model), described(model))
    make_dense(whole_again)
    assert torch.equal(torch.get_rng_state(), state)


def test_optimizers_find_every_factor() -> None:
    model = changed()
    trained = [p for p in model.parameters() if p.requires_grad]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    (model.train()(images()) - 1).square().sum().backward()
    optimizer.step()
    still = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert still == {"4.base.weight", "4.base.bias"}
