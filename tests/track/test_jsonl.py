"""metrics.jsonl: strict JSON, each step once, on the disk as it is written, and never a reason to stop."""

from __future__ import annotations

import json
import resource
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import exact, recipe

import lehr
from lehr.base.errors import CheckpointError, LehrWarning
from lehr.base.protocols import Observer, Place, Record
from lehr.track import JsonlTracker
from lehr.track.jsonl import read_records


def train(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "split": "train", "loss": 1 / step, **more}


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[JsonlTracker]:
    tracker = JsonlTracker(tmp_path / "metrics.jsonl")
    yield tracker
    tracker.close()


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Let writes beyond ``size`` fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_each_line_is_one_object(tracker: JsonlTracker) -> None:
    given = [train(1, text='a "quoted"\nline\u2028'), train(2, samples=16), {"step": 2, "split": "val", "loss": 0.25}]
    for record in given:
        tracker.log(record)
    lines = tracker.path.read_bytes().splitlines()
    assert [json.loads(line) for line in lines] == given == read_records(tracker.path)


@pytest.mark.parametrize("kind", [float, np.float64])
def test_what_json_has_no_number_for_is_a_text(tracker: JsonlTracker, kind: type) -> None:
    tracker.log(train(1, a=kind("nan"), b=kind("inf"), c=kind("-inf"), d=kind("1.5")))
    record = json.loads(tracker.path.read_text(), parse_constant=refuse)
    assert [record[name] for name in "abcd"] == ["nan", "inf", "-inf", 1.5]


def test_a_record_is_in_the_file_as_soon_as_it_is_logged(tracker: JsonlTracker) -> None:
    for step in (1, 2, 3):
        tracker.log(train(step))
        assert [record["step"] for record in read_records(tracker.path)] == list(range(1, step + 1))


@pytest.mark.parametrize("cut_short", [0, 5, 20], ids=lambda count: f"last line short by {count}")
def test_a_resumed_run_leaves_each_step_once(tracker: JsonlTracker, cut_short: int) -> None:
    tracker.log(train(1))
    saved = tracker.state_dict()
    tracker.log(train(2))
    tracker.log(train(3, seconds=1.0))
    tracker.close()
    tracker.path.write_bytes(tracker.path.read_bytes()[: -cut_short or None])
    resumed = JsonlTracker(tracker.path)
    resumed.load_state_dict(saved)
    assert resumed.state_dict() == saved
    resumed.log(train(2))
    assert resumed.state_dict()["bytes"] == tracker.path.stat().st_size
    resumed.close()
    assert read_records(tracker.path) == [train(1), train(2)]


@pytest.mark.parametrize("left", [0, 30, -5], ids=["deleted", "shorter", "cut in its last line"])
def test_a_file_that_lost_its_end_is_gone_on_with_as_it_is(tracker: JsonlTracker, left: int) -> None:
    tracker.log(train(1))
    tracker.log(train(2))
    saved = tracker.state_dict()
    tracker.close()
    whole = tracker.path.read_bytes()
    tracker.path.unlink()
    if left:
        tracker.path.write_bytes(whole[:left])
    resumed = JsonlTracker(tracker.path)
    with pytest.warns(LehrWarning, match=rf"metrics.jsonl has \d+ bytes, but had {len(whole)} .* goes on without them"):
        resumed.load_state_dict(saved)
    resumed.log(train(3))
    resumed.close()
    assert read_records(tracker.path) == [train(1), train(3)] if left < 0 else [train(3)]


def test_records_that_find_no_place_are_written_later(tracker: JsonlTracker) -> None:
    tracker.log(train(1))
    with files_end_at(tracker.path.stat().st_size + 10):
        with pytest.warns(LehrWarning, match=r"metrics.jsonl cannot be written: File too large; .*written as soon as"):
            tracker.log(train(2))
        tracker.log(train(3))
        assert len(tracker.path.read_bytes().splitlines()) == 2, "the second line is there in part"
        assert [record["step"] for record in read_records(tracker.path)] == [1]
        with pytest.raises(CheckpointError, match="cannot be written: File too large"):
            tracker.state_dict()
    tracker.log(train(4))
    assert read_records(tracker.path) == [train(step) for step in (1, 2, 3, 4)]
    assert tracker.state_dict()["bytes"] == tracker.path.stat().st_size


def test_records_that_are_lost_at_the_end_are_said_to_be(tracker: JsonlTracker) -> None:
    with files_end_at(0):
        with pytest.warns(LehrWarning):
            tracker.log(train(1))
        with pytest.warns(LehrWarning, match="its last records are lost"):
            tracker.close()


def test_a_last_line_that_a_crash_cut_short_is_left_out(tracker: JsonlTracker) -> None:
    tracker.log(train(1))
    whole = tracker.path.read_bytes()
    tracker.log(train(2))
    both = tracker.path.read_bytes()
    for length in range(len(whole), len(both)):
        tracker.path.write_bytes(both[:length])
        found = [record["step"] for record in read_records(tracker.path)]
        assert found == ([1, 2] if length == len(both) - 1 else [1])


@pytest.mark.parametrize("damage", [b"\0" * 40, b"\xff\xfe{", b'{"step": 2, "spl', b"null", b"[1]", b'{"loss": 1}'])
def test_a_damaged_line_costs_no_other(tracker: JsonlTracker, damage: bytes) -> None:
    tracker.log(train(1))
    with tracker.path.open("ab") as file:
        file.write(damage + b"\n\n")
    tracker.log(train(3))
    with pytest.warns(LehrWarning, match=r"left out damaged lines, 1, first 2"):
        assert read_records(tracker.path) == [train(1), train(3)]


def test_a_run_that_was_killed_in_a_line_has_the_records_of_its_twin(tmp_path: Path) -> None:
    class Killed(BaseException):  # nothing is saved on the way out
        pass

    class Kill(Observer):
        def logged(self, place: Place, record: Record) -> None:
            if place.step == 8:
                with (tmp_path / "killed" / "metrics.jsonl").open("ab") as file:
                    file.write(b'{"step": 9, "split": "tr')
                raise Killed

    with pytest.raises(Killed):
        lehr.train(recipe(methods=(Kill(),)), run_dir=tmp_path / "killed")
    with warnings.catch_warnings(action="error"):
        lehr.resume(tmp_path / "killed", recipe=recipe(), allow_changes=True)
    lehr.train(recipe(), run_dir=tmp_path / "twin")
    assert exact(tmp_path / "killed") == exact(tmp_path / "twin")
