"""Evaluation: the exact mean over the data, whatever the batches; modes put back; nothing kept."""

from __future__ import annotations

import functools
import gc
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import Mlp, points, recipe, records
from torch import Tensor, nn

import lehr
from lehr.base.errors import DataError, LehrWarning, SettingError
from lehr.base.modes import evaluation_mode
from lehr.losses import Supervised, cross_entropy
from lehr.metrics import Metric
from lehr.metrics.accuracy import ACCURACY
from lehr.run.recipe import Evaluate
from lehr.training.evaluate import evaluate

OBJECTIVE = Supervised(loss=cross_entropy)


def batches(x: Tensor, y: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(size), y.split(size), strict=True))


@pytest.mark.parametrize("size", [1, 3, 7, 16, 23])
def test_the_mean_is_that_of_the_data_for_any_batch_size(size: int) -> None:
    model = Mlp().double().eval()
    x, y = points(23)
    x = x.double()
    values = evaluate(model, OBJECTIVE, batches(x, y, size), [ACCURACY])
    output = model(x)
    assert values["loss"] == pytest.approx(F.cross_entropy(output, y).item(), abs=1e-12)
    assert values["accuracy"] == (output.argmax(dim=1) == y).double().mean().item()


def test_a_mean_loss_over_a_short_last_batch_is_weighed_by_its_samples() -> None:
    x, y = points(20)
    model = Mlp().eval()
    values = evaluate(model, Supervised(loss=lambda o, t: F.cross_entropy(o, t)), batches(x, y, 8))
    assert values["loss"] == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-6)


def test_masked_targets_do_not_count() -> None:
    x, y = points(20)
    y[3:17] = -1
    model = Mlp().eval()
    objective = Supervised(loss=functools.partial(cross_entropy, ignore=-1))
    values = evaluate(model, objective, batches(x, y, 8))
    assert values["loss"] == pytest.approx(F.cross_entropy(model(x), y, ignore_index=-1).item(), rel=1e-6)


def test_ignored_labels_do_not_count_in_the_accuracy_either() -> None:
    x, y = points(20)
    y[::2] = -100
    model = Mlp().eval()
    values = evaluate(model, Supervised(loss=nn.CrossEntropyLoss()), batches(x, y, 8), [ACCURACY])
    assert values["accuracy"] == (model(x).argmax(dim=1) == y)[1::2].double().mean().item()


def test_nothing_to_count_is_an_error_and_no_zero() -> None:
    x, y = points(8)
    objective = Supervised(loss=functools.partial(cross_entropy, ignore=-1))
    with pytest.raises(DataError, match="nothing that counts"):
        evaluate(Mlp(), objective, batches(x, torch.full_like(y, -1), 4))
    with pytest.raises(DataError, match="nothing that counts"):
        evaluate(Mlp(), OBJECTIVE, [])


def test_a_loss_that_is_not_finite_is_given_as_it_is() -> None:
    x, y = points(8)
    x[2] = math.nan
    with pytest.warns(LehrWarning, match=r"the loss on the validation data is nan"):
        assert math.isnan(evaluate(Mlp().eval(), OBJECTIVE, batches(x, y, 4))["loss"])


def test_each_module_is_put_back_into_its_own_mode(tmp_path: Path) -> None:
    class Partly(Mlp):
        def __init__(self) -> None:
            super().__init__()
            self.norm.eval()

    with pytest.warns(LehrWarning, match=r"1 modules with parameters are in evaluation mode \(first: 'norm'\)"):
        trainer = lehr.Trainer(recipe(model=Partly, steps=6, evaluate=Evaluate(every=2)), run_dir=tmp_path / "run")
    before = {name: module.training for name, module in trainer.model.named_modules()}
    trainer.fit()
    assert {name: module.training for name, module in trainer.model.named_modules()} == before
    assert before["norm"] is False and before["drop"] is True
    assert int(trainer.model.norm.num_batches_tracked) == 0


def test_modes_come_back_after_an_error() -> None:
    model = Mlp()
    with pytest.raises(RuntimeError), evaluation_mode(model):
        raise RuntimeError
    assert all(module.training for module in model.modules())


def test_no_output_outlives_its_batch() -> None:
    """Memory is flat in the number of batches: when one is measured, the outputs of the one before it are gone."""
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def compute(output: Tensor, target: Tensor) -> tuple[Tensor, int]:
        nonlocal most
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(output))
        assert not output.requires_grad
        return (output.argmax(dim=1) == target).sum(), len(target)

    x, y = points(64)
    evaluate(Mlp(), OBJECTIVE, batches(x, y, 2), [Metric(name="watched", of="outputs", compute=compute, goal="max")])
    assert len(alive) == 32
    assert most == 0


def test_metrics_that_need_outputs_are_refused_where_there_are_none(tmp_path: Path) -> None:
    def objective(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
        return F.cross_entropy(model(batch[0]), batch[1], reduction="sum"), len(batch[0])

    with pytest.raises(SettingError, match=r"'accuracy' needs the model's output"):
        lehr.Trainer(recipe(objective=objective), run_dir=tmp_path / "run")


def test_a_limited_evaluation_is_spread_and_the_last_one_is_whole(tmp_path: Path) -> None:
    made = recipe(
        data=lehr.Data(train=points(), val=points(40, seed=1), batch_size=8, val_batch_size=4),
        evaluate=Evaluate(every=5, batches=2),
        model=lambda: Mlp(dropout=0.0),
    )
    trainer = lehr.Trainer(made, run_dir=tmp_path / "run")
    result = trainer.fit()
    whole = evaluate(trainer.model, OBJECTIVE, batches(*points(40, seed=1), 4))
    assert result.val_loss == pytest.approx(whole["loss"], abs=1e-12)
    partial = [r["loss"] for r in records(tmp_path / "run") if r["split"] == "val"]
    assert len(partial) == 3
    assert partial[-1] != pytest.approx(whole["loss"], abs=1e-6)


def test_validation_noise_does_not_depend_on_when_it_is_asked_for(tmp_path: Path) -> None:
    """A model that draws in evaluation too (a sampler, Monte-Carlo dropout) gives the same value each time."""

    class Noisy(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.randn(len(x), 3)

    trainer = lehr.Trainer(recipe(model=Noisy), run_dir=tmp_path / "run")
    assert trainer.assembly.validate is not None
    assert trainer.assembly.validate(None) == trainer.assembly.validate(None)
