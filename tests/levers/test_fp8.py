"""fp8: which layers, whose names, how near; and what is refused where no device has it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from helpers import recipe
from torch import nn

import lehr
from lehr.base.errors import SettingError
from lehr.layers import DropConnectLinear
from lehr.levers import LEVERS, NotHere, Setup, fp8

pytest.importorskip("torchao")
HOPPER = Setup(device="cuda", capability=(9, 0))


def test_layers_keep_names_and_weights_and_gradients_are_near() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 10))
    x = torch.randn(48, 32)
    model(x).square().mean().backward()
    before = model[0].weight.grad.clone()
    names, weight = list(model.state_dict()), model[0].weight
    model.zero_grad()
    assert fp8(model, emulate=True) == 1, "10 is no multiple of 16"
    assert list(model.state_dict()) == names and model[0].weight is weight and type(model[2]) is nn.Linear
    model(x).square().mean().backward()
    error = float((model[0].weight.grad - before).norm() / before.norm())
    assert 0 < error < 0.08, error


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(SettingError, match="multiples of 16"):
        fp8(nn.Linear(3, 5), emulate=True)


def test_layers_that_are_more_than_linear_and_a_model_that_is_one_layer_stay() -> None:
    own = DropConnectLinear(16, 16)
    model = nn.Sequential(own, nn.Linear(16, 16), nn.MultiheadAttention(16, 2))
    assert fp8(model, emulate=True) == 1
    assert type(model[0]) is DropConnectLinear and type(model[2].out_proj) is type(
        nn.MultiheadAttention(16, 2).out_proj
    )
    with pytest.raises(SettingError, match="within the model"):
        fp8(nn.Linear(16, 16), emulate=True)


def test_a_number_of_rows_that_is_no_multiple_of_16_is_padded() -> None:
    model = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 16))
    fp8(model, emulate=True)
    assert model[0].config.pad_inner_dim
    model(torch.randn(5, 32)).sum().backward()


def test_a_recipe_without_the_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="capability 8.9"):
        lehr.train(recipe(precision="fp8"), run_dir=tmp_path / "run")


def test_the_lever_compiles_and_says_where_it_cannot_apply() -> None:
    lever = LEVERS["fp8"].make()
    for setup in (HOPPER, dataclasses.replace(HOPPER, compile=True), dataclasses.replace(HOPPER, step="whole")):
        assert lever.options(setup) == [("step=eager", "dropout=torch", "compile=true", "precision=fp8")]
    assert lever.untested
    for setup, reason in (
        (Setup(), "a cpu"),
        (Setup(device="cuda", capability=(8, 0)), "capability 8.0"),
        (Setup(device="cuda", capability=(9, 0), precision="fp8"), "already"),
        (Setup(device="cuda", capability=(9, 0), compiler=False), "compiler"),
    ):
        with pytest.raises(NotHere, match=reason):
            lever.options(setup)
