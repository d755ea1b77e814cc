"""What is validated beside what is trained on; losses by name."""

from __future__ import annotations

import copy
import functools
import math
from pathlib import Path

import pytest
import torch
from helpers import Mlp, points, recipe, records
from torch import nn

import lehr
from lehr.base.errors import SettingError
from lehr.base.settings import override
from lehr.losses import Distilled, Supervised, as_objective, bce, cross_entropy, focal_loss, label_smoothing
from lehr.metrics import METRICS
from lehr.training.evaluate import evaluate


def test_evaluations_report_the_plain_loss(tmp_path: Path) -> None:
    """exp of a smoothed loss is no perplexity; the guide's trainer validates on the smoothed one."""
    smoothed = Supervised(loss=functools.partial(label_smoothing, smoothing=0.3), val_loss=cross_entropy)
    model, (x, y) = Mlp().eval(), points(20)
    values = evaluate(model, smoothed, [(x, y)], [METRICS["perplexity"].make()])
    expected = nn.functional.cross_entropy(model(x), y).item()
    assert values["loss"] == pytest.approx(expected, rel=1e-6)
    assert values["perplexity"] == pytest.approx(math.exp(expected), rel=1e-6)
    without = evaluate(model, smoothed.model_copy(update={"val_loss": None}), [(x, y)])
    assert abs(without["loss"] - expected) > 1e-3
    made = recipe(objective=smoothed, metrics=("perplexity",), steps=4, track={"every": 2})
    lehr.train(made, run_dir=tmp_path / "run")
    for record in records(tmp_path / "run"):
        assert ("perplexity" in record) == (record["split"] == "val"), "a smoothed loss has no perplexity in training"


def test_validation_does_not_change_training(tmp_path: Path) -> None:
    weights = [
        lehr.train(recipe(objective=Supervised(loss=label_smoothing, val_loss=given), steps=4), run_dir=tmp_path / name)
        for name, given in (("without", None), ("with", cross_entropy))
    ]
    losses = [[r["loss"] for r in records(tmp_path / n) if r["split"] == "train"] for n in ("without", "with")]
    assert losses[0] == losses[1] and all(w.step == 4 for w in weights)


def test_a_val_loss_that_does_not_fit_is_named_before_the_first_step(tmp_path: Path) -> None:
    wrong = Supervised(loss=cross_entropy, val_loss=bce)
    with pytest.raises(
        SettingError, match=r"val_loss=lehr.losses.bce.bce failed.*output has shape \(8, 3\) and the target"
    ):
        lehr.train(recipe(objective=wrong, steps=2), run_dir=tmp_path / "run")
    with pytest.raises(SettingError, match="reduction='sum' does not say what to divide by"):
        Supervised(loss=cross_entropy, val_loss=nn.MSELoss(reduction="sum"))


def test_both_losses_ignore_the_same_label() -> None:
    smoothed = functools.partial(label_smoothing, ignore=-1)
    with pytest.raises(SettingError, match="loss ignores the label -1 and val_loss none; give both the same"):
        Supervised(loss=smoothed, val_loss=cross_entropy)
    Supervised(loss=smoothed, val_loss=functools.partial(cross_entropy, ignore=-1))
    Supervised(loss=nn.CrossEntropyLoss(label_smoothing=0.1), val_loss=cross_entropy)


def test_metrics_understand_the_loss_of_the_evaluation() -> None:
    objective = Supervised(loss=lambda o, t: o.square().mean(), val_loss=functools.partial(cross_entropy, ignore=2))
    *_, counted = objective.classes(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
    assert counted is not None and counted.tolist() == [True, True, False]
    own = Supervised(loss=bce, val_loss=lambda o, t: (o - t).abs().mean())
    assert own.classes(torch.tensor([2.0]), torch.tensor([1]))[0].tolist() == [[-2.0, 2.0]]


# by name


def test_names_in_recipes_and_overrides() -> None:
    small = recipe(objective="focal_loss")
    assert small.objective.loss is focal_loss and small.objective.val_loss is cross_entropy
    changed = override(small, ["objective=label_smoothing"])
    assert changed.objective.loss is label_smoothing
    with pytest.raises(SettingError, match=r"unknown loss 'label_smooting' \(did you mean 'label_smoothing'\?\)"):
        override(small, ["objective=label_smooting"])
    with pytest.raises(SettingError, match="Distilled needs 'loss'"):
        as_objective("distillation")
    assert (
        override(recipe(objective=Distilled(loss=cross_entropy, teacher=Mlp)), ["objective.alpha=0.2"]).objective.alpha
        == 0.2
    )


def test_losses_by_name_train(tmp_path: Path) -> None:
    for name in ("label_smoothing", "z_loss"):
        result = lehr.train(recipe(objective=name, steps=3), run_dir=tmp_path / name)
        assert math.isfinite(result.val_loss)
    assert copy.deepcopy(as_objective("focal_loss")).loss is focal_loss
