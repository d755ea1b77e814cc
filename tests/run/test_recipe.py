"""What a recipe refuses, as it is met from Python: the field, what was given, what is allowed, the nearest name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Mlp, points, recipe
from pydantic import ValidationError
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lehr
from lehr.base.errors import DataError, SettingError
from lehr.base.settings import override
from lehr.metrics import Metric
from lehr.optim import AdamW, Muon, Rule
from lehr.run.recipe import Evaluate, Recipe, Save, Track
from lehr.schedules import WarmupCosine
from lehr.training.stopping import Stop

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "an unknown field": (lambda: recipe(epocs=5), r"Recipe has no field 'epocs' \(did you mean 'epochs'\?\); its fields: "),
    "an unknown field of a part": (lambda: Save(evry=5), r"Save has no field 'evry' \(did you mean 'every'\?\)"),
    "a part as a dict": (lambda: recipe(track={"evry": 5}), r"Recipe has no field 'track.evry'|Track has no field 'evry'"),
    "neither steps nor epochs": (lambda: recipe(steps=None), "a run needs steps= or epochs=, one of them; given: neither"),
    "both": (lambda: recipe(epochs=2), r"one of them; given: steps=15 and epochs=2\.0"),
    "no steps": (lambda: recipe(steps=0), "steps=0 is refused: input should be greater than or equal to 1"),
    "a number that is none": (lambda: recipe(clip=float("nan")), "clip=nan is refused: input should be a finite number"),
    "a model that was made": (lambda: recipe(model=Mlp()), "model is an instance of Mlp; give what makes it"),
    "no model": (lambda: recipe(model=3), "model=3 cannot make a model; give a class or function without arguments"),
    "an unknown optimizer": (lambda: recipe(optim="adamww"), r"unknown optimizer 'adamww' \(did you mean 'adamw'\?\); known: "),
    "an optimizer that was made": (
        lambda: recipe(optim=torch.optim.SGD([torch.zeros(1, requires_grad=True)])),
        "cannot build an optimizer; give a name .*or settings with build",
    ),
    "an unknown schedule": (lambda: recipe(schedule="warmup_cosin"), r"unknown schedule .*\(did you mean 'warmup_cosine'\?\)"),
    "no schedule": (lambda: recipe(schedule=0.1), r"schedule=0\.1 is no schedule; give a name \(constant, "),
    "an unknown metric": (lambda: recipe(metrics="acuracy"), r"unknown metric 'acuracy' \(did you mean 'accuracy'\?\)"),
    "a monitor that is not measured": (
        lambda: recipe(evaluate=Evaluate(monitor="perplexity")),
        "evaluate.monitor='perplexity' is not measured; known: loss, accuracy",
    ),
    "a monitor that only `lehr eval` measures": (
        lambda: recipe(
            metrics=(Metric(name="exact", of="model", compute=len, goal="max"),), evaluate=Evaluate(monitor="exact")
        ),
        "evaluate.monitor='exact' is not measured; known: loss$",
    ),
    "an objective that is none": (lambda: recipe(objective=3), "objective=3 cannot be called; give a loss"),
    "an unknown loss": (lambda: recipe(objective="mean"), r"unknown loss 'mean'"),
    "two methods in one name": (lambda: recipe(methods="ema,mixup"), r'read as one name; write several as \["ema", "mixup"\]'),
    "a field of no method": (lambda: override(recipe(), ["methods.ema.decay=0.9"]), "'methods' is empty; say first what it is to hold, for example --set methods=ema"),
    "a rule without its list": (lambda: override(recipe(), ['optim.rules={"pattern": "*"}']), r"write several values as \[1, 2\], and one as \[1\]"),
    "a precision with a slip": (lambda: recipe(precision="bf61"), r"precision='bf61' is refused.*\(did you mean 'bf16'\?\)"),
    "a duration that is none": (lambda: Track(every="often"), "'often' is not a duration; write a number of steps"),
    "a required field": (lambda: Recipe(data=lehr.Data(train=points()), objective=len, steps=1), "Recipe needs 'model'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_when_it_is_written(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(SettingError, match=message):
        make()


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(SettingError, match=r"(?s)seed=-1 is refused.*no field 'stepz'"):
        recipe(stepz=5, seed=-1)


def test_names_and_objects_mean_the_same() -> None:
    named = recipe(optim="adamw", schedule="warmup_cosine", metrics="accuracy", save={"every": "1 epoch"})
    assert named.optim == AdamW() and named.schedule == WarmupCosine()
    assert named.save == Save(every="1 epoch")
    assert [metric.name for metric in named.metrics] == ["accuracy"]
    with pytest.raises(ValidationError, match="frozen"):
        named.steps = 3


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(1, 3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x[:, None])[:, :, 0]


def held_out() -> DataLoader[Any]:
    return DataLoader(TensorDataset(*points(20)), batch_size=5)


STARTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a warm-up longer than the run": ({"schedule": WarmupCosine(warmup=16)}, SettingError, "warmup=16 steps is 16 steps, but the run has 15"),
    "less than an update": ({"steps": None, "epochs": 0.05}, SettingError, "epochs=0.05 is less than one update; an epoch has 6"),
    "epochs of a stream": ({"steps": None, "epochs": 1, "data": lehr.Data(train={"a"}, batch_size=1)}, SettingError, "no known length; give steps"),
    "a batch larger than the data": ({"data": lehr.Data(train=points(), batch_size=49)}, DataError, "use a batch_size of 1 to 48"),
    "more pieces than samples": ({"accumulate": 9}, SettingError, "cuts a batch of 8 samples into more pieces than it has; use 1 to 8"),
    "a target without validation": ({"data": lehr.Data(train=points(), batch_size=8), "stop": Stop(val_loss=1)}, SettingError, "need validation data"),
    "Muon without a matrix": ({"model": Convolution, "optim": Muon()}, SettingError, "has no hidden matrices for Muon.*; use optim=adamw"),
    "a model that makes none": ({"model": dict}, SettingError, "model made a dict; it must make a torch.nn.Module"),
    "nothing to train": ({"model": nn.ReLU}, SettingError, "ReLU has no parameter to train"),
    "no data": ({"data": lehr.Data()}, SettingError, "Data needs train="),
    "a device that is none": ({"device": "gpu"}, SettingError, "device='gpu' is no device"),
}  # fmt: skip


@pytest.mark.parametrize("case", STARTS)
def test_what_is_refused_before_any_work_is_done(case: str, tmp_path: Any) -> None:
    changes, kind, message = STARTS[case]
    with pytest.raises(kind, match=message):
        lehr.train(recipe(**changes), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_frozen_altogether_is_refused() -> None:
    with pytest.raises(SettingError, match="optim.rules freeze every parameter"):
        lehr.Trainer(recipe(optim=AdamW(rules=(Rule(pattern="*", frozen=True),))))
