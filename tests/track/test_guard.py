"""A tracker that fails is reported once, closed and dropped; the training goes on as without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import exact, recipe

import lehr
from lehr.base.errors import LehrWarning
from lehr.track import Guarded


class Tracker:
    def __init__(self, *, fails_in: str = "", at: int = 2) -> None:
        self.fails_in, self.at = fails_in, at
        self.calls: list[str] = []

    def log(self, record: dict[str, Any]) -> None:
        self._call("log")

    def close(self) -> None:
        self._call("close")

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails_in and self.calls.count(name) >= self.at:
            raise OSError("no space left")


def test_records_are_handed_on() -> None:
    tracker = Tracker()
    guarded = Guarded(tracker)
    guarded.log({})
    guarded.close()
    assert tracker.calls == ["log", "close"]


def test_a_failure_is_reported_once_and_the_tracker_is_closed_and_dropped() -> None:
    tracker = Tracker(fails_in="log")
    guarded = Guarded(tracker)
    with pytest.warns(LehrWarning, match=r"the tracker Tracker failed .*: OSError: no space left") as caught:
        guarded.log({}) or guarded.log({}) or guarded.log({}) or guarded.close()
    assert len(caught) == 1
    assert tracker.calls == ["log", "log", "close"]


def test_a_tracker_that_cannot_be_closed_is_reported_once() -> None:
    guarded = Guarded(Tracker(fails_in="close", at=1))
    with pytest.warns(LehrWarning, match="no space left") as caught:
        guarded.close() or guarded.close()
    assert len(caught) == 1


def test_an_interrupt_passes_through() -> None:
    class Interrupted(Tracker):
        def log(self, record: dict[str, Any]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guarded(Interrupted()).log({})


def test_the_training_is_the_same_with_a_tracker_that_fails(tmp_path: Path) -> None:
    tracker = Tracker(fails_in="log")
    with pytest.warns(LehrWarning, match="left out") as caught:
        result = lehr.train(recipe(), run_dir=tmp_path / "failing", trackers=[lambda total: Guarded(tracker)])
    assert len(caught) == 1
    assert result.stopped == "finished" and result.step == 15
    lehr.train(recipe(), run_dir=tmp_path / "without")
    assert exact(tmp_path / "failing") == exact(tmp_path / "without")
