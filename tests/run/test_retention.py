"""Whatever a metric does over a run, its best and its last checkpoint are there, and not many more."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pytest
from helpers import points, recipe
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import lehr
from lehr.base.protocols import Observer, Place
from lehr.checkpoint import CheckpointStore
from lehr.metrics import Metric
from lehr.run.opened import open_run
from lehr.run.recipe import Evaluate, Recipe, Save
from lehr.training.stopping import Stop

Goal = Literal["min", "max"]


class Told:
    """A metric whose values are given, one for each evaluation."""

    def __init__(self, values: list[float]) -> None:
        self.values, self.asked = values, 0

    def __call__(self, output: Tensor, target: Tensor) -> tuple[float, int]:
        if len(target) != 6:  # the trial on the first batch of training
            return 0.0, 1
        self.asked += 1
        return self.values[self.asked - 1], 1


class Counts(Observer):
    """Looks into the folder after each save."""

    def __init__(self, keep: int) -> None:
        self.keep, self.saves = keep, 0

    def save_done(self, place: Place, path: str) -> None:
        self.saves += 1
        store = CheckpointStore(Path(path).parent)
        assert len(store.paths()) <= self.keep + 2
        assert store.paths()[-1] == Path(path) and store.newest().step == place.step  # type: ignore[union-attr]


def told(values: list[float], goal: Goal, keep: int, **changes: Any) -> tuple[Recipe, Counts]:
    """Return a recipe that evaluates after each step, and saves after every third and at each best."""
    counts = Counts(keep)
    return recipe(
        data=lehr.Data(train=points(), val=points(6), batch_size=8),
        metrics=(Metric(name="told", of="outputs", compute=Told(values), goal=goal),),
        methods=(counts,),
        steps=len(values),
        schedule="constant",
        evaluate=Evaluate(every=1, monitor="told"),
        save=Save(every=3, keep=keep),
        **changes,
    ), counts


def first_best(values: list[float], goal: Goal) -> int | None:
    """Return the step of the best value; the first of equal ones."""
    finite = [value for value in values if math.isfinite(value)]
    return values.index((min if goal == "min" else max)(finite)) + 1 if finite else None


VALUES = st.lists(
    st.one_of(st.floats(-2, 2), st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf])), min_size=1, max_size=9
)


@given(VALUES, st.sampled_from(["min", "max"]), st.integers(1, 3))
@settings(deadline=None, max_examples=25)
def test_best_and_last_are_there(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], goal: Goal, keep: int
) -> None:
    run = tmp_path_factory.mktemp("run") / "run"
    made, counts = told(values, goal, keep)
    lehr.train(made, run_dir=run)
    assert counts.saves >= 1
    assert open_run(run, which="last", recipe=made).step == len(values)
    assert open_run(run, which="best", recipe=made).step == (first_best(values, goal) or len(values))


@pytest.mark.parametrize("goal", ["min", "max"])
def test_the_best_is_there_however_the_run_ended(tmp_path: Path, goal: Goal) -> None:
    values = [0.5, 0.2, 0.9, 0.4, 0.6, 0.6, 0.6, 0.6]
    best = first_best(values, goal)
    early, _ = told(values, goal, 1, stop=Stop(patience=3))
    assert lehr.train(early, run_dir=tmp_path / "early").stopped == "early-stop"
    assert open_run(tmp_path / "early", recipe=early).step == best
    left, _ = told(values, goal, 1)
    for place, batch in enumerate((trainer := lehr.Trainer(left, run_dir=tmp_path / "left")).batches()):
        trainer.step(batch)
        if place == 4:
            break
    assert open_run(tmp_path / "left", recipe=left).step == best
    lehr.resume(tmp_path / "left", recipe=told(values[3:], goal, 1)[0].model_copy(update={"steps": len(values)}))
    assert open_run(tmp_path / "left", recipe=left).step == best
    assert open_run(tmp_path / "left", which="last", recipe=left).step == len(values)
