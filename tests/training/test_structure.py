"""The layers of a checkpoint are the model's, whatever it has before, and those who hold parameters hear of it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lehr.base.errors import CheckpointError, SettingError
from lehr.lowrank import LoRALinear, LowRankLinear, SplitAttention, described, low_rank
from lehr.optim import AdamW
from lehr.training.structure import Structure, rebuild


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.up = nn.MultiheadAttention(16, 2), nn.Linear(16, 16)


def changed(kind: str) -> Net:
    model = Net()
    structure = Structure(model, [])
    if kind in ("split", "both"):
        structure.put({"attention": SplitAttention.from_multihead(model.attention)})
    if kind == "both":
        structure.put({"attention.q_proj": LowRankLinear.from_linear(model.attention.q_proj, 3)}, frobenius=True)
    if kind in ("low", "both"):
        structure.put({"up": LowRankLinear.from_linear(model.up, 5)})
    return model


@pytest.mark.parametrize("before", ["dense", "split", "low", "both"])
@pytest.mark.parametrize("after", ["dense", "split", "low", "both"])
def test_from_any_layers_to_any_other(before: str, after: str) -> None:
    model, wanted = changed(before), changed(after)
    optimizers = AdamW().build(model)
    structure = Structure(model, optimizers)
    heard: list[int] = []
    structure.follow(lambda: heard.append(1))
    structure.load_state_dict(Structure(wanted, []).state_dict())
    assert described(model) == described(wanted)
    model.load_state_dict(wanted.state_dict())
    held = [p for group in optimizers[0].param_groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    assert bool(heard) == (before != after)


def test_a_model_that_has_such_layers_itself_needs_nothing() -> None:
    model = nn.Sequential(nn.Linear(8, 256), nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 4))
    low_rank(model, ratio=0.1)
    twin = copy.deepcopy(model)
    assert rebuild(twin, Structure(model, []).state_dict()) == []
    assert rebuild(twin, {}) == []


def test_a_checkpoint_of_another_model_is_refused() -> None:
    state = Structure(changed("low"), []).state_dict()
    with pytest.raises(CheckpointError, match="'up' does not fit the model"):
        Structure(nn.Sequential(nn.Linear(2, 2)), []).load_state_dict(state)


def test_frozen_parameters_are_left_out_and_have_to_be_the_same() -> None:
    torch.manual_seed(0)
    model = Net()
    optimizers = AdamW().build(model)
    structure = Structure(model, optimizers)
    structure.freeze(["attention.in_proj_weight"])
    structure.put({"up": LoRALinear.from_linear(model.up, 2)})
    state = structure.state_dict()
    assert state["left_out"] == ["attention.in_proj_weight", "up.base.bias", "up.base.weight"]
    held = {id(p) for group in optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}
    with pytest.raises(CheckpointError, match="not those that the run began with"):
        rebuild(Net(), state)


def test_who_holds_and_who_changes_cannot_be_in_one_run() -> None:
    for first, second in (("hold", "change"), ("change", "hold")):
        structure = Structure(Net(), [])
        getattr(structure, first)("one")
        with pytest.raises(SettingError, match="leave one of the two out"):
            getattr(structure, second)("other")
