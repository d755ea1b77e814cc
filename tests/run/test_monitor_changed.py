"""A run that goes on by another monitored value: what the first one came to is on another scale, and is not compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import recipe, records, run_steps

import lehr
from lehr.run.opened import open_run
from lehr.run.recipe import Evaluate, Save, Stop

BY_LOSS, BY_ACCURACY = Evaluate(every=1), Evaluate(every=1, monitor="accuracy")


@pytest.mark.filterwarnings("ignore:the run was to have 10 steps")
def test_the_best_is_of_the_value_that_the_run_now_goes_by(tmp_path: Path) -> None:
    run = tmp_path / "run"
    lehr.train(recipe(steps=10, evaluate=BY_LOSS, save=Save(every=5, keep=20)), run_dir=run)
    again = recipe(steps=30, evaluate=BY_ACCURACY, save=Save(every=5, keep=40))
    lehr.resume(run, recipe=again, allow_changes=True)
    accuracy = {r["step"]: r["accuracy"] for r in records(run) if r["split"] == "val" and r["step"] > 10}
    best = min(step for step in accuracy if accuracy[step] == max(accuracy.values()))
    assert open_run(run, recipe=again).step == best
    state = json.loads((run / "checkpoints" / "step-00000030" / "state.json").read_text())
    assert state["scores"]["best"] == max(accuracy.values())
    assert state["scores"]["best_loss"] == min(r["loss"] for r in records(run) if r["split"] == "val")


def test_the_wait_for_an_improvement_begins_anew(tmp_path: Path) -> None:
    """No accuracy improves on a loss above 1, were it taken for an accuracy."""
    run = tmp_path / "run"
    patient = Stop(patience=12)
    run_steps(lehr.Trainer(recipe(evaluate=BY_LOSS, save=Save(every=1), stop=patient), run_dir=run), 2)
    again = recipe(evaluate=BY_ACCURACY, save=Save(every=1), stop=patient)
    assert lehr.resume(run, recipe=again, allow_changes=True).stopped == "finished"
    state = json.loads((run / "checkpoints" / "step-00000015" / "state.json").read_text())
    stopping = state["listeners"]["Stopping-0"]
    accuracy = [r["accuracy"] for r in records(run) if r["split"] == "val" and r["step"] > 2]
    assert (stopping["monitor"], stopping["best"]) == ("accuracy", max(accuracy))
