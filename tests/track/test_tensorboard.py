"""TensorBoard events, read back as TensorBoard reads them: the numbers of metrics.jsonl, each step once."""

from __future__ import annotations

import math
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers import recipe, records

import lehr
from lehr.base.errors import SettingError
from lehr.base.protocols import Observer, Place, Record
from lehr.run.recipe import Track
from lehr.track.tensorboard import TensorBoardTracker

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def recorded(run: Path, split: str, name: str) -> list[tuple[int, float]]:
    return [(r["step"], pytest.approx(r[name])) for r in records(run) if r["split"] == split and name in r]


def train(step: int, loss: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"step": step, "split": "train", "loss": loss, **more}


def assert_as_recorded(run: Path) -> None:
    found = scalars(run / "tensorboard")
    expected = {
        f"{record['split']}/{name}" for record in records(run) for name in record.keys() - {"step", "split", "epoch"}
    }
    assert found.keys() == expected >= {"train/loss", "train/lr", "train/grad_norm", "val/loss", "val/accuracy"}
    for tag in expected:
        assert found[tag] == recorded(run, *tag.split("/")), tag


def test_tensorboard_shows_what_was_recorded(tmp_path: Path) -> None:
    lehr.train(recipe(track=Track(every=2, tensorboard=True)), run_dir=tmp_path / "run")
    assert_as_recorded(tmp_path / "run")


def test_without_being_asked_for_nothing_is_written(tmp_path: Path) -> None:
    lehr.train(recipe(), run_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_after_a_crash_and_a_resume_each_step_is_shown_once(tmp_path: Path) -> None:
    class Crash(Observer):
        def logged(self, place: Place, record: Record) -> None:
            if place.step == 14:
                raise ZeroDivisionError

    given = recipe(track=Track(every=2, tensorboard=True))
    with pytest.raises(ZeroDivisionError):
        lehr.train(given.model_copy(update={"methods": (Crash(),)}), run_dir=tmp_path / "run")
    lehr.resume(tmp_path / "run", recipe=given, allow_changes=True)
    assert_as_recorded(tmp_path / "run")


def test_events_at_or_after_the_purged_step_are_hidden(tmp_path: Path) -> None:
    for losses, start in ((1.0, 1), (2.0, 4)):
        tracker = TensorBoardTracker(tmp_path, purge_step=start)
        for step in range(start, start + 5):
            tracker.log(train(step, losses))
        tracker.close()
    assert scalars(tmp_path)["train/loss"] == [(s, 1.0 if s < 4 else 2.0) for s in range(1, 9)]


def test_the_loss_of_a_withheld_update_is_no_point_of_the_curve(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path)
    tracker.log(train(1))
    tracker.log(train(1, float("inf"), withheld="nonfinite"))
    tracker.log(train(2, note="a text"))
    tracker.log({"step": 2, "split": "val", "loss": float("nan")})
    tracker.close()
    found = scalars(tmp_path)
    assert found["train/loss"] == [(1, 1.0), (2, 1.0)]
    assert math.isnan(found["val/loss"][0][1])
    assert found.keys() == {"train/loss", "val/loss"}


def test_closing_ends_the_thread_that_writes(tmp_path: Path) -> None:
    before = threading.active_count()
    tracker = TensorBoardTracker(tmp_path)
    tracker.log(train(1))
    assert threading.active_count() == before + 1
    tracker.close()
    assert threading.active_count() == before


def test_a_missing_package_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(SettingError, match=r"'tensorboard', which is not installed; run: pip install 'lehr\[track\]'"):
        TensorBoardTracker(tmp_path)
