"""Averaged weights: evaluated beside the model's own, gone by, saved, and there again when a run is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import exact, recipe, records

import lehr
from lehr.base.errors import SettingError
from lehr.base.settings import override
from lehr.run.opened import open_run
from lehr.run.recipe import Evaluate, Recipe
from lehr.training.methods import EMA


def averaged(**changes: Any) -> Recipe:
    return recipe(**{"methods": [EMA(decay=0.5, warmup=False)], "steps": 10} | changes)


def with_averaged(checkpoint: Path) -> dict[str, torch.Tensor]:
    import safetensors.torch

    saved = safetensors.torch.load_file(checkpoint / "listeners.safetensors")
    return {n.partition("/weights/")[2]: value for n, value in saved.items() if "/weights/" in n}


def test_evaluations_have_the_values_of_both(tmp_path: Path) -> None:
    made = averaged()
    result = lehr.train(made, run_dir=tmp_path / "run")
    validations = [r for r in records(tmp_path / "run") if r["split"] == "val"]
    assert all({"loss", "accuracy", "ema_loss", "ema_accuracy"} <= set(r) for r in validations)
    assert result.metrics["ema_loss"] == validations[-1]["ema_loss"] != result.val_loss
    # by hand: the average is in the checkpoint; put into a model, it gives the value that was recorded
    kept = with_averaged(tmp_path / "run" / "checkpoints" / "step-00000010")
    assert result.model is not None
    own = {name: p.detach().clone() for name, p in result.model.named_parameters()}
    assert set(kept) == set(own) and not any(torch.equal(kept[n], own[n]) for n in own)
    result.model.load_state_dict(kept, strict=False)
    x, y = made.data.val
    loss = torch.nn.functional.cross_entropy(result.model.eval()(x), y)
    assert loss.item() == pytest.approx(result.metrics["ema_loss"], rel=1e-5)


def test_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    lehr.train(averaged(), run_dir=tmp_path / "with")
    lehr.train(averaged(methods=[]), run_dir=tmp_path / "without")

    def own(run: Path) -> list[dict[str, Any]]:
        return [{k: v for k, v in r.items() if not k.startswith("ema_")} for r in exact(run)]

    assert own(tmp_path / "with") == own(tmp_path / "without")


def test_best_checkpoints_go_by_the_average_when_asked(tmp_path: Path) -> None:
    made = averaged(evaluate=Evaluate(every=2, monitor="ema_accuracy"))
    assert made.goal == "max"
    lehr.train(made, run_dir=tmp_path / "run")
    opened = open_run(tmp_path / "run", recipe=made)
    validations = {r["step"]: r["ema_accuracy"] for r in records(tmp_path / "run") if r["split"] == "val"}
    assert validations[opened.step] == max(validations.values())
    values = opened.evaluate()
    assert values["ema_accuracy"] == pytest.approx(validations[opened.step])


def test_an_opened_run_uses_the_weights_that_are_asked_for(tmp_path: Path) -> None:
    made = averaged(evaluate=Evaluate(every=5, monitor="ema_loss"))
    lehr.train(made, run_dir=tmp_path / "run")
    opened = open_run(tmp_path / "run", recipe=made, which="last")
    kept = with_averaged(tmp_path / "run" / "checkpoints" / "step-00000010")
    own = opened.model.first.weight.detach().clone()
    for weights, expected in ((None, kept["first.weight"]), ("ema", kept["first.weight"]), ("model", own)):
        with opened.using(weights) as model:
            assert torch.equal(model.first.weight, expected)
    assert torch.equal(opened.model.first.weight, own)
    with pytest.raises(SettingError, match="no weights 'swa'; it has: model, ema"), opened.using("swa"):
        pass


def test_a_value_of_an_average_that_is_not_kept_is_refused() -> None:
    with pytest.raises(SettingError, match="ema_loss.*not measured; known: loss, accuracy"):
        recipe(evaluate=Evaluate(monitor="ema_loss"))
    with pytest.raises(SettingError, match="'ema' is there twice"):
        averaged(methods=["ema", "ema"])


def test_settings_of_a_method_are_reached_by_its_name_or_place() -> None:
    made = averaged(methods=["ema"])
    assert override(made, ["methods.ema.decay=0.9"]).methods[0] == EMA(decay=0.9)
    assert override(made, ["methods.0.decay=0.9"]).methods[0] == EMA(decay=0.9)
    for path in ("methods.swa.decay=1", "methods.1.decay=1"):
        with pytest.raises(SettingError, match=r"holds no settings .*they are: 0 \(ema\)"):
            override(made, [path])
    with pytest.raises(SettingError, match="which has no field 'ema'"):
        override(made, ["methods.ema=1"])
    with pytest.raises(SettingError, match="EMA has no field 'decoy'.*did you mean 'decay'"):
        override(made, ["methods.ema.decoy=1"])
    assert override(made, ['methods=["ema"]']).methods == (EMA(),)
    with pytest.raises(SettingError, match="unknown method 'emma'.*did you mean 'ema'"):
        averaged(methods=["emma"])
