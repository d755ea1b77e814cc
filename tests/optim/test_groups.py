"""Groups by module type: every parameter in exactly one group, decay on matrices and kernels only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import OF_SMALL_MODELS
from torch import nn

from lehr.base.errors import SettingError
from lehr.models.gpt import GPTSettings
from lehr.models.seq2seq import Seq2SeqSettings
from lehr.optim import OPTIMIZERS, SGD, Adagrad, AdamW, Muon, RMSprop, Rule, split_by_decay
from lehr.optim.built import as_optimizers
from lehr.optim.muon import hidden_matrices


class Gain(nn.Module):
    """A norm of the user's own, under a name that says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.g


class Zoo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.ln_f = nn.LayerNorm(4)
        self.rms = nn.RMSNorm(4)
        self.bn = nn.BatchNorm1d(4)
        self.gn = nn.GroupNorm(2, 4)
        self.conv = nn.Conv1d(4, 4, 3)
        self.linear = nn.Linear(4, 4)
        self.own = Gain()
        self.attention = nn.MultiheadAttention(4, 2)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.linear(self.embedding(x)))


def test_decay_in_a_zoo_of_modules() -> None:
    decayed, kept = split_by_decay(Zoo())
    assert decayed == ["conv.weight", "linear.weight", "attention.in_proj_weight", "attention.out_proj.weight"]
    assert "embedding.weight" in kept  # tied to the head, and still an embedding
    assert not any("frozen" in name for name in decayed + kept)


@pytest.mark.parametrize("row", [row for row in OPTIMIZERS.values() if not row.needs], ids=lambda row: row.name)
def test_every_trainable_parameter_is_in_exactly_one_group(row: Any) -> None:
    for model in (Zoo(), GPTSettings(width=8, depth=1, heads=2).build({"vocab_size": 4, "context": 4})):
        optimizers = row.make(**OF_SMALL_MODELS.get(row.name, {})).build(model)
        held = [p for o in optimizers for g in o.param_groups for p in g["params"]]
        assert len(held) == len(set(held))
        assert set(held) == {p for p in model.parameters() if p.requires_grad}


def test_adamw_settings_reach_torch() -> None:
    (optimizer,) = AdamW(lr=0.3, betas=(0.8, 0.9), eps=1e-5, weight_decay=0.2).build(nn.Linear(3, 2))
    decayed, kept = optimizer.param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.2, 0.0)
    assert decayed["lr"] == 0.3 and decayed["betas"] == (0.8, 0.9) and decayed["eps"] == 1e-5
    assert decayed["fused"] is True


def test_muon_takes_hidden_matrices_and_leaves_the_ends() -> None:
    model = GPTSettings(width=8, depth=1, heads=2).build({"vocab_size": 4, "context": 4})
    assert hidden_matrices(model) == [
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.out.weight",
        "blocks.0.up.weight",
        "blocks.0.down.weight",
    ]
    muon, adamw = Muon(lr=0.01, momentum=0.8).build(model)
    assert muon.param_groups[0]["momentum"] == 0.8
    assert muon.param_groups[0]["weight_decay"] == 0.0  # torch's default would be 0.1
    assert sum(len(group["params"]) for group in adamw.param_groups) == 2


def test_muon_can_leave_others_aside() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    assert hidden_matrices(model, ("0", "2")) == ["1.weight"]
    with pytest.raises(
        SettingError, match=r"names '9', which is not an nn.Linear of the model; its nn.Linear modules: 0, 1, 2"
    ):
        hidden_matrices(model, ("9",))
    with pytest.raises(SettingError, match="its nn.Linear or convolution modules: 0, 2"):
        Muon(aside=("1",), convolutions="flatten").build(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(4, 2)))
    with pytest.raises(SettingError, match="no hidden matrices"):
        Muon().build(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(4, 2)))


def test_muon_never_takes_tied_embeddings() -> None:
    model = GPTSettings(width=8, depth=1, heads=2, tie=True).build({"vocab_size": 4, "context": 4})
    assert not any("embedding" in name for name in hidden_matrices(model))


def test_muon_can_take_kernels_but_for_the_first() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(2, 2))
    assert hidden_matrices(model, convolutions=True) == ["2.weight"]
    muon, adamw = Muon(convolutions="flatten").build(model)
    assert [p.shape for group in muon.param_groups for p in group["params"]] == [model[2].weight.shape]
    assert sum(len(group["params"]) for group in adamw.param_groups) == 7
    with pytest.raises(SettingError, match="no hidden matrices"):
        Muon().build(model)


def test_muon_splits_fused_weights_where_that_is_asked_for() -> None:
    model = GPTSettings(width=8, depth=2, heads=2).build({"vocab_size": 4, "context": 4})
    muon, _ = Muon(split_qkv=("*.qkv.weight",)).build(model)
    assert [(group["parts"], len(group["params"])) for group in muon.param_groups] == [(1, 6), (3, 2)]
    with pytest.raises(SettingError, match=r"pattern '\*.qvk.weight' selects no parameter of GPT \(did you mean 'qkv'"):
        Muon(split_qkv=("*.qvk.weight",)).build(model)
    with pytest.raises(SettingError, match=r"takes 'blocks.0.attention.out.weight', whose rows are not three matrices"):
        Muon(split_qkv=("*.out.weight",)).build(model)


def test_muon_splits_only_what_is_its_own() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3))
    with pytest.raises(
        SettingError, match=r"the pattern '2.weight' takes none of Muon's matrices, which are: 0.weight"
    ):
        Muon(split_qkv=("2.weight",)).build(model)  # the output layer is AdamW's
    muon, _ = Muon(split_qkv=("*.weight",)).build(model)
    assert [(group["parts"], len(group["params"])) for group in muon.param_groups] == [(3, 2)]
    frozen = (Rule(pattern="1.*", frozen=True),)
    with pytest.raises(SettingError, match=r"takes none of Muon's matrices, which are: 0.weight$"):
        Muon(split_qkv=("1.weight",), rules=frozen).build(model)


def test_muons_rules_hold_for_the_parameters_beside_it_too() -> None:
    model = GPTSettings(width=8, depth=1, heads=2).build({"vocab_size": 4, "context": 4})
    rules = (
        Rule(pattern="embedding.*", rate=0.5),
        Rule(pattern="*.up.*", rate=0.25),
        Rule(pattern="*.down.*", frozen=True),
    )
    inner = AdamW(lr=1.0, rules=(Rule(pattern="embedding.*", weight_decay=0.7),))
    muon, adamw = Muon(lr=1.0, rules=rules, adamw=inner).build(model)
    assert [(g["lr"], len(g["params"])) for g in muon.param_groups] == [(1.0, 2), (0.25, 1)]
    assert [(g["lr"], g["weight_decay"]) for g in adamw.param_groups] == [(1.0, 0.01), (0.5, 0.7)]
    assert not model.blocks[0].down.weight.requires_grad


def test_a_model_without_matrices_to_decay_has_one_group() -> None:
    (optimizer,) = AdamW().build(nn.LayerNorm(3))
    assert len(optimizer.param_groups) == 1


def test_torchs_transformer_layers() -> None:
    facts = {"source_vocab_size": 5, "target_vocab_size": 5, "source_length": 4, "target_length": 4}
    model = Seq2SeqSettings(width=8, depth=1, heads=2).build(facts)
    decayed, kept = split_by_decay(model)
    assert all(dict(model.named_parameters())[name].ndim == 2 for name in decayed)
    assert {"source.weight", "target.weight", "positions.weight"} <= set(kept)


def test_norms_and_biases_of_any_shape_do_not_decay() -> None:
    model = nn.Sequential(nn.LayerNorm((4, 8)), nn.RMSNorm((4, 8)), nn.MultiheadAttention(4, 1, add_bias_kv=True))
    assert split_by_decay(model)[0] == ["2.in_proj_weight", "2.out_proj.weight"]


def test_what_build_returns_is_checked() -> None:
    parameters = list(nn.Linear(2, 2).parameters())
    one = torch.optim.SGD(parameters, lr=0.1)
    assert as_optimizers((one,), "Mine") == [one]
    with pytest.raises(SettingError, match=r"Mine.build returned a SGD; it must return a list of optimizers: \[SGD"):
        as_optimizers(one, "Mine")
    with pytest.raises(SettingError, match="Mine.build returned a NoneType"):
        as_optimizers(None, "Mine")
    with pytest.raises(SettingError, match="returned no optimizer"):
        as_optimizers([], "Mine")
    with pytest.raises(SettingError, match="Mine.build returned LBFGS, which calls the model itself"):
        as_optimizers([torch.optim.LBFGS(parameters)], "Mine")


def test_one_kernel_where_torch_has_it_and_one_call_an_operation_elsewhere() -> None:
    model = nn.Linear(3, 2)
    for settings in (SGD(), Adagrad(), AdamW()):
        assert all(group["fused"] for group in settings.build(model)[0].param_groups)
    assert all(group["foreach"] for group in RMSprop().build(model)[0].param_groups)
    complex_ones = nn.Linear(3, 2, dtype=torch.complex64)
    assert AdamW().build(complex_ones)[0].param_groups[0]["fused"] is None
    assert AdamW().build(complex_ones)[0].param_groups[0]["foreach"] is True


def test_decay_of_sparse_gradients_is_refused() -> None:
    model = nn.Sequential(nn.Embedding(3, 2, sparse=True), nn.Linear(2, 2))
    (optimizer,) = SGD(weight_decay=0.1).build(model)
    assert [(g["fused"], g["weight_decay"]) for g in optimizer.param_groups] == [(True, 0.1), (True, 0.0), (False, 0.0)]
    with pytest.raises(SettingError, match=r"cannot take weight_decay=0.1 on sparse gradients, but the embedding '0'"):
        SGD(rules=(Rule(pattern="0.*", weight_decay=0.1),)).build(model)
