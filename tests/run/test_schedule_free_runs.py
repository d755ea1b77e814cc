"""Schedule-free runs: the model of a checkpoint, of a result, of an opened run is the one that was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_same, exact, recipe, records, run_steps, weights

import lehr
from lehr.base.errors import SettingError
from lehr.optim import AdamW, ScheduleFreeAdamW, ScheduleFreeSGD
from lehr.run.opened import open_run
from lehr.run.recipe import Evaluate, Recipe, Save
from lehr.training.methods import Mixup

KINDS = pytest.mark.parametrize("optim", [ScheduleFreeAdamW(lr=0.02), ScheduleFreeSGD(lr=0.5)])


def made(optim: Any, **changes: Any) -> Recipe:
    return recipe(**{"optim": optim, "steps": 12, "evaluate": Evaluate(every=3), "save": Save(every=3)} | changes)


@KINDS
def test_a_checkpoint_is_evaluated_as_it_was_when_it_was_made(tmp_path: Path, optim: Any) -> None:
    result = lehr.train(made(optim), run_dir=tmp_path / "run")
    by_step = {r["step"]: r["loss"] for r in records(tmp_path / "run") if r["split"] == "val"}
    for which in ("best", "last"):
        opened = open_run(tmp_path / "run", recipe=made(optim), which=which)  # type: ignore[arg-type]
        assert opened.evaluate()["loss"] == pytest.approx(by_step[opened.step], rel=1e-6)
    assert result.model is not None
    x, y = made(optim).data.val
    loss = torch.nn.functional.cross_entropy(result.model.eval()(x), y)
    assert loss.item() == pytest.approx(result.val_loss, rel=1e-5)
    assert_same(weights(result.model), weights(open_run(tmp_path / "run", recipe=made(optim), which="last").model))


@KINDS
def test_another_run_starts_from_what_was_measured(tmp_path: Path, optim: Any) -> None:
    result = lehr.train(made(optim), run_dir=tmp_path / "run")
    trainer = lehr.Trainer(recipe(optim=AdamW(), weights=tmp_path / "run"))
    assert result.model is not None
    assert_same(weights(trainer.model), weights(result.model))


@KINDS
def test_an_interrupted_run_is_its_twin(tmp_path: Path, optim: Any) -> None:
    whole = lehr.train(made(optim, methods=(Mixup(classes=3),)), run_dir=tmp_path / "whole")
    trainer = lehr.Trainer(made(optim, methods=(Mixup(classes=3),)), run_dir=tmp_path / "cut")
    for batch in trainer.batches():
        trainer.step(batch)
        if trainer.loop.clock.step == 7:
            trainer.stop("for now")
    resumed = lehr.resume(tmp_path / "cut", recipe=made(optim, methods=(Mixup(classes=3),)))
    assert whole.model is not None and resumed.model is not None
    assert_same(weights(whole.model), weights(resumed.model))
    assert exact(tmp_path / "whole") == exact(tmp_path / "cut")


def test_a_schedule_of_ones_own_that_gives_no_factor_is_named() -> None:
    for wrong in (float("nan"), -1.0, None, float("inf")):
        trainer = lehr.Trainer(recipe(schedule=lambda step, wrong=wrong: wrong if step == 2 else 1.0))
        with pytest.raises(SettingError, match=r"the schedule <lambda> gives .* at step 2; a factor is a finite"):
            run_steps(trainer, 5)
        assert trainer.loop.clock.step == 2
