"""A new output layer: where it goes, how it is initialized, and what it is loaded with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers import Mlp, points, recipe, records, weights
from torch import nn

import lehr
from lehr.base.errors import SettingError
from lehr.optim import AdamW
from lehr.run.recipe import Evaluate
from lehr.transfer import freeze, replace_head


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_last_linear_layer_is_replaced_in_its_place() -> None:
    model = Mlp(classes=1000)
    freeze(model)
    first = model.first
    assert replace_head(model, 5, generator=seeded()) == "last"
    assert model.first is first
    assert model(torch.zeros(2, 4)).shape == (2, 5)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["last.weight", "last.bias"]


def test_a_nested_head_can_be_named() -> None:
    model = nn.ModuleDict({"a": nn.Sequential(nn.ReLU(), nn.Linear(4, 9, bias=False)), "b": nn.Linear(4, 9)})
    assert replace_head(model, 2, name="a.1") == "a.1"
    assert model["a"][1].bias is None and model["a"][1].out_features == 2
    assert model["b"].out_features == 9


def test_its_initialization_is_that_of_torch_and_follows_from_the_generator() -> None:
    before = torch.get_rng_state()
    heads = []
    for seed in (0, 0, 1):
        model = nn.Sequential(nn.Linear(400, 7))
        state = torch.get_rng_state()
        replace_head(model, 300, generator=seeded(seed))
        assert torch.equal(torch.get_rng_state(), state)  # only its own generator
        heads.append(model[0])
    torch.set_rng_state(before)
    assert torch.equal(heads[0].weight, heads[1].weight) and torch.equal(heads[0].bias, heads[1].bias)
    assert not torch.equal(heads[0].weight, heads[2].weight)
    bound = 1 / math.sqrt(400)
    for values in (heads[0].weight.detach(), heads[0].bias.detach()):
        assert float(values.abs().max()) <= bound
        assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
    reference = nn.Linear(400, 300)
    assert float(heads[0].weight.detach().std()) == pytest.approx(float(reference.weight.detach().std()), rel=0.02)


def test_type_and_mode_are_those_of_the_old_head() -> None:
    model = nn.Sequential(nn.Linear(3, 2).double().eval())
    replace_head(model, 4)
    assert model[0].weight.dtype == torch.float64 and model[0].training is False


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (nn.Conv1d(1, 1, 1), {}, r"Conv1d has no nn.Linear to replace; its nn.Linear modules: none"),
        (Mlp(), {"name": "fc"}, r"Mlp has no nn.Linear 'fc'; its nn.Linear modules: first, last"),
        (Mlp(), {"name": "norm"}, r"Mlp has no nn.Linear 'norm'"),
        (nn.Linear(2, 2), {}, r"is an nn.Linear itself, which cannot be replaced in place"),
    ],
)
def test_what_has_no_such_head_is_refused(model: nn.Module, given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        replace_head(model, 3, **given)


def test_no_classes_are_refused() -> None:
    with pytest.raises(SettingError, match=r"num_classes=0; a head needs 1 output or more"):
        replace_head(Mlp(), 0)


def pretrained_with_a_new_head() -> nn.Module:
    model = Mlp(classes=3)
    freeze(model, ["first.*", "norm.*"])
    replace_head(model, 2)
    return model


def test_from_a_trained_model_to_another_task(tmp_path: Path) -> None:
    """The whole way of the guide's method 1: trained weights, a frozen body, a new head that learns."""
    lehr.train(recipe(), run_dir=tmp_path / "old")
    x, y = points(classes=2)
    data = lehr.Data(train=(x, y), val=points(20, seed=1, classes=2), batch_size=8)
    saved = tmp_path / "old" / "checkpoints" / "step-00000015"
    made = recipe(
        model=pretrained_with_a_new_head,
        data=data,
        weights=saved,
        weights_allow=("last.*",),
        optim=AdamW(lr=0.05),
        schedule="constant",
        steps=40,
        evaluate=Evaluate(every=5),
    )
    trainer = lehr.Trainer(made, run_dir=tmp_path / "new")
    trainer.fit()
    stored = safetensors.torch.load_file(saved / "model.safetensors")
    now = weights(trainer.model)
    assert {n for n in now if n in stored and now[n].equal(stored[n])} == {n for n in stored if n[:4] != "last"}
    losses = [r["loss"] for r in records(tmp_path / "new") if r["split"] == "val"]
    assert losses[-1] < losses[0]
