"""Stopping early: equality and NaN are no improvement, an interruption forgets nothing, the minimum is kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import Mlp, exact, points, recipe
from hypothesis import given
from hypothesis import strategies as st

import lehr
from lehr.base.durations import RunLength
from lehr.base.errors import SettingError, StopRun
from lehr.base.protocols import Place
from lehr.run.recipe import Evaluate, Save, Stop
from lehr.training.stopping import EarlyStopping, Stopping


def observer(settings: Stop, goal: str = "min") -> Stopping:
    """Return what a run of 1000 steps, 100 an epoch, makes of the settings."""
    steps = settings.min_steps.steps(RunLength(1000, steps_per_epoch=100))
    return Stopping(settings, monitor="loss", goal=goal, min_steps=steps)  # type: ignore[arg-type]


def stop_after(values: list[float], settings: Stop, goal: str = "min") -> int | None:
    """Return after which evaluation (from 1, ten steps apart) the run is asked to stop."""
    stopping = observer(settings, goal)
    for place, value in enumerate(values, start=1):
        try:
            stopping.eval_end(Place(place * 10, 0, 1000), {"loss": value})
        except StopRun:
            return place
    return None


@pytest.mark.parametrize(
    ("values", "settings", "expected"),
    [
        ([3, 2, 1, 1, 1], Stop(patience=2), 5),
        ([3, 3, 3], Stop(patience=2), 3),
        ([3, math.nan, math.nan, 1], Stop(patience=2), 3),
        ([math.nan, math.nan, 3], Stop(patience=2), 2),
        ([3, 4, 2, 3, 4, 5], Stop(patience=3), 6),
        ([3, 2.95, 2.9, 2.85], Stop(patience=2, min_delta=0.2), 3),
        ([3, 4, 5, 6, 1, 2], Stop(patience=2, min_steps=50), None),
        ([3, 4, 5, 6, 7, 2], Stop(patience=2, min_steps=50), None),
        ([3, 4, 5, 6, 7, 8], Stop(patience=2, min_steps=50), 6),
        ([3, 4, 5, 6, 7, 8], Stop(patience=2, min_steps="0.5 epochs"), 6),
        ([3, 4, 5, 6, 7, 2], Stop(patience=2, min_steps="4%"), 5),
        ([1, 4, 5, 2, 2], Stop(patience=2, min_steps=40), 5),
        ([3, 2, 1.5, 1], Stop(val_loss=1.5), 3),
        ([1, 2, 1], Stop(val_loss=1.5, min_steps=30), 3),
        ([math.nan, 2], Stop(val_loss=1.5), None),
    ],
)
def test_when_it_stops(values: list[float], settings: Stop, expected: int | None) -> None:
    assert stop_after(values, settings) == expected


def test_a_value_to_maximize() -> None:
    assert stop_after([0.5, 0.6, 0.6, 0.55], Stop(patience=2), goal="max") == 4


@given(st.lists(st.floats(0, 10) | st.just(math.nan), max_size=12), st.integers(1, 4), st.integers(0, 11))
def test_an_interruption_anywhere_changes_nothing(values: list[float], patience: int, cut: int) -> None:
    settings = Stop(patience=patience)
    whole = stop_after(values, settings)
    first = observer(settings)
    place = 0
    for place, value in enumerate(values[:cut], start=1):
        try:
            first.eval_end(Place(place * 10, 0, 1000), {"loss": value})
        except StopRun:
            assert place == whole
            return
    second = observer(settings)
    second.load_state_dict(first.state_dict())
    for later, value in enumerate(values[cut:], start=place + 1):
        try:
            second.eval_end(Place(later * 10, 0, 1000), {"loss": value})
        except StopRun:
            assert later == whole
            return
    assert whole is None


def overfitting(**changes: object) -> lehr.Recipe:
    """Learns 16 random labels by heart: the validation loss falls, then rises."""
    x, _ = points(16)
    data = lehr.Data(train=(x, points(16, seed=5)[1]), val=points(20, seed=1), batch_size=8)
    fields = {"optim": lehr.optim.AdamW(lr=0.03), "steps": 300, "evaluate": Evaluate(every=4), "schedule": "constant"}
    return recipe(**{"data": data, "stop": Stop(patience=2)} | fields | changes)


def test_the_run_stops_early_and_keeps_its_best(tmp_path: Path) -> None:
    result = lehr.train(overfitting(), run_dir=tmp_path / "run")
    assert result.stopped == "early-stop"
    assert result.step < 300
    assert result.best_val_loss is not None and result.val_loss is not None
    assert result.best_val_loss < result.val_loss
    best = [r for r in exact(tmp_path / "run") if r["split"] == "val" and r["loss"] == result.best_val_loss]
    assert (tmp_path / "run" / "checkpoints" / f"step-{best[0]['step']:08}").is_dir()
    assert (tmp_path / "run" / "checkpoints" / f"step-{result.step:08}").is_dir()


def test_interrupted_at_each_evaluation_it_stops_where_it_would_have(tmp_path: Path) -> None:
    whole = lehr.train(overfitting(), run_dir=tmp_path / "whole")
    for cut in range(4, whole.step, 4):
        trainer = lehr.Trainer(overfitting(save=Save(every=4)), run_dir=tmp_path / f"{cut}")
        for batch in trainer.batches():
            trainer.step(batch)
            if trainer.loop.clock.step == cut:
                break
        rest = lehr.resume(tmp_path / f"{cut}", recipe=overfitting(save=Save(every=4)))
        assert (rest.step, rest.stopped) == (whole.step, "early-stop")
        assert exact(tmp_path / f"{cut}") == exact(tmp_path / "whole")


def test_a_target_ends_the_run(tmp_path: Path) -> None:
    result = lehr.train(recipe(stop=Stop(val_loss=100.0), model=Mlp), run_dir=tmp_path / "run")
    assert (result.stopped, result.step) == ("target", 5)


def test_stopping_without_validation_data_is_refused(tmp_path: Path) -> None:
    data = lehr.Data(train=points(), batch_size=8)
    with pytest.raises(SettingError, match=r"stop.val_loss and stop.patience need validation data"):
        lehr.Trainer(recipe(data=data, stop=Stop(patience=2)), run_dir=tmp_path / "run")


class GuidesEarlyStopping:
    """The class that the guide gives, as it is written there."""

    def __init__(self, patience: int = 7, min_delta: float = 0.0) -> None:
        self.patience, self.min_delta = patience, min_delta
        self.counter, self.best, self.early_stop = 0, None, False

    def __call__(self, loss: float) -> bool:
        if self.best is None:
            self.best = loss
        elif loss > self.best - self.min_delta:
            self.counter += 1
            self.early_stop |= self.counter >= self.patience
        else:
            self.best, self.counter = loss, 0
        return self.early_stop


@pytest.mark.parametrize(
    ("losses", "guide", "ours"),
    [
        ([3.0, 2.0, 2.5, 2.5, 2.5], 5, 5),
        ([2.0] * 50, None, 4),
        ([2.0, 2.5, 2.5, 2.0, 2.5, 2.5, 2.0], None, 4),
        ([2.0, math.nan, *[5.0] * 50], None, 4),
        ([math.nan, *[5.0] * 50], None, 5),
    ],
    ids=["where both are right", "a plateau", "an equal loss", "NaN once", "NaN at first"],
)
def test_where_the_guides_class_goes_on_for_good(losses: list[float], guide: int | None, ours: int) -> None:
    """An equal loss starts its count anew, and after NaN nothing is worse than the best."""

    def stops_at(update: Callable[[float], bool]) -> int | None:
        return next((place for place, loss in enumerate(losses, start=1) if update(loss)), None)

    assert stops_at(GuidesEarlyStopping(patience=3)) == guide
    assert stops_at(EarlyStopping(patience=3).update) == ours


def test_it_can_be_used_alone_and_put_back() -> None:
    early = EarlyStopping(patience=2, min_delta=0.1, goal="max")
    assert [early.update(value) for value in (0.5, 0.55)] == [False, False]
    other = EarlyStopping(patience=2, min_delta=0.1, goal="max")
    other.load_state_dict(early.state_dict())
    assert other.best == 0.5
    assert other.update(0.6) is True  # better by 0.1, and it must be more
    assert early.update(0.61) is False


@pytest.mark.parametrize(
    "wrong",
    [
        {"patience": 0},
        {"min_delta": -1.0},
        {"min_delta": math.nan},
        {"goal": "least"},
        {"patience": math.nan},
        {"patience": 1.5},
        {"patience": True},
        {"min_delta": math.inf},
    ],
)
def test_what_cannot_be_waited_for_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(
        SettingError,
        match=r"patience is a whole number from 1 on, min_delta a finite number from 0 on, and goal 'min' or 'max'",
    ):
        EarlyStopping(**{"patience": 3} | wrong)


@pytest.mark.parametrize(("given", "step"), [(30, 32), ("20 epochs", 40)])
def test_the_least_length_may_have_any_unit(tmp_path: Path, given: Any, step: int) -> None:
    """An epoch has 2 steps, an evaluation is made every 4, and the loss rises from early on."""
    result = lehr.train(overfitting(stop=Stop(patience=1, min_steps=given)), run_dir=tmp_path / "run")
    assert result.stopped == "early-stop"
    assert result.step >= step and result.step <= step + 8


def test_a_least_length_in_epochs_needs_data_with_a_length(tmp_path: Path) -> None:
    stream = lehr.Data(train={(0.5, 1)}, val=points(20, seed=1), batch_size=1)
    with pytest.raises(SettingError, match=r"'3 epochs' cannot be turned into steps"):
        lehr.Trainer(overfitting(data=stream, stop=Stop(patience=1, min_steps="3 epochs")), run_dir=tmp_path / "run")
