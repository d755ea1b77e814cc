"""Levers that are tried: what pays is kept, what fails or proves nothing is left out with its cause."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import lehr as verb

import lehr
from lehr.base.errors import SettingError
from lehr.levers import LEVERS, Setup
from lehr.levers.lever import Lever
from lehr.measurement import speed as speed_module
from lehr.measurement.intervals import Interval
from lehr.measurement.phases import Phases
from lehr.measurement.speed import Tried, promise, speed
from lehr.measurement.worker import Source
from lehr.reporting.speed_page import figures, render
from lehr.run.patch import read_patch, write_patch

RECIPES = '''
import os
import torch
from torch import nn
import lehr
from helpers import points, recipe as small


def recipe():
    data = lehr.Data(train=points(64), val=points(20, seed=1), batch_size=32)
    return small(steps=100_000, accumulate=8, data=data)


class Breaks(nn.Module):
    """Cannot be one graph: it decides by values."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        print(end="")
        return self.layer(x) if float(x.sum()) > 1e9 else self.layer(x) * 1.0


def breaking():
    return small(steps=100_000, model=Breaks)


class DiesWithOneThread(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.count = 0

    def forward(self, x):
        self.count += 1
        if self.count > 20 and os.environ.get("SMALL") is None and torch.get_num_threads() == 3:
            os.kill(os.getpid(), 9)
        return self.layer(x)


def dying():
    return small(steps=100_000, model=DiesWithOneThread, threads=1)
'''


@pytest.fixture
def place(tmp_path: Path) -> str:
    helpers = Path(__file__).parents[1]
    (tmp_path / "tuned.py").write_text(f"import sys\nsys.path.insert(0, {str(helpers)!r})\n{RECIPES}")
    return str(tmp_path / "tuned.py")


def lines() -> tuple[list[str], Any]:
    said: list[str] = []
    return said, said.append


@pytest.mark.slow
def test_what_pays_is_kept_measured_anew_and_written_as_a_patch(place: str, tmp_path: Path) -> None:
    said, say = lines()
    report = speed(f"{place}:recipe", budget=45, levers=["microbatches", "bf16", "channels-last"], say=say)
    by_name = {(tried.name, tried.settings): tried for tried in report.levers}
    kept = [tried for tried in report.levers if tried.kept]
    assert "accumulate=1" in [setting for tried in kept for setting in tried.settings]
    assert by_name["channels-last", ()].reason == "the model has no 2-d convolutions"
    assert not by_name["bf16", ("precision=bf16",)].kept, "casts around products of 4 by 8 cost more than they save"
    assert report.total is not None and report.total.verdict == "faster" and report.total.ratio.low > 1.5
    assert "accumulate=1" in report.patch
    assert said[0].startswith("a step takes")
    plain = report.plain()
    assert {"baseline", "levers", "total", "patch"} <= plain.keys()
    assert {"name", "ratio", "low", "high", "kept", "reason"} <= plain["levers"][0].keys()
    assert {"ratio", "low", "high", "loss_delta"} <= plain["total"].keys()
    json.dumps(plain)
    page = render(plain, "tuned.py", "lehr train tuned.py --recipe-patch patch.json")
    assert "Where a step" in page and "accumulate=1" in page
    bars = figures(plain)[0]["data"]
    assert sum(bar["x"][0] for bar in bars) == pytest.approx(1000 * report.phases.total, rel=0.05)


@pytest.mark.slow
def test_a_lever_that_breaks_costs_only_itself(place: str) -> None:
    _, say = lines()
    # far more than it takes: what breaks gives the rest of its share back
    report = speed(f"{place}:breaking", budget=120, levers=["whole-step", "bf16"], say=say)
    whole, bf16 = (next(tried for tried in report.levers if tried.name == name) for name in ("whole-step", "bf16"))
    assert not whole.kept and "cannot make one graph" in whole.reason
    assert bf16.ratio is not None, "the others go on"
    assert report.patch == ()


@pytest.mark.slow
def test_a_process_that_dies_is_named_and_left_out(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def options(setup: Any) -> list[tuple[str, ...]]:
        return [("threads=3",), ("clip=0.5",)]

    mine = Lever(name="mine", summary="kills", shortens=("forward",), options=options)
    row = LEVERS["bf16"]
    monkeypatch.setattr(speed_module, "LEVERS", {"mine": type(row)(name="mine", make=lambda: mine, summary="")})
    _, say = lines()
    report = speed(f"{place}:dying", budget=45, levers=["mine"], say=say)
    first, second = report.levers
    assert "killed by signal 9" in first.reason and not first.kept
    assert second.ratio is not None, "the others go on"


def test_a_budget_that_proves_nothing_says_so(place: str) -> None:
    _, say = lines()
    with pytest.raises(SettingError, match="nothing could be measured within 0 s; give more with --budget"):
        speed(f"{place}:recipe", budget=0.01, levers=["microbatches"], say=say)


def test_an_unknown_lever_is_answered_with_the_nearest(place: str) -> None:
    with pytest.raises(SettingError, match="did you mean 'whole-step'"):
        speed(f"{place}:recipe", levers=["whole_step"])


def test_levers_come_in_the_order_of_what_they_may_shorten() -> None:
    step = Phases(
        data=0.5, forward=0.1, backward=0.1, optimizer=0.3, synchronization=0.0, rest=0.0, python=0.05, total=1.0
    )
    shares = {name: promise(LEVERS[name].make(), step) for name in ("workers", "bf16", "fused-optimizer", "whole-step")}
    assert sorted(shares, key=lambda name: -shares[name]) == ["workers", "fused-optimizer", "whole-step", "bf16"]


def test_another_loss_is_a_reason_to_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    class Found:
        verdict, ratio, repaid_after, train_loss_delta = "faster", Interval(2.0, 1.9, 2.1), 0, 0.05

        class b:
            warm_up_seconds = 0.0

    lever = LEVERS["bf16"].make()
    made = Tried(name="bf16", settings=("precision=bf16",), reason="")
    judged = speed_module._judged(made, Found, lever, 0)  # type: ignore[arg-type]
    assert not judged.kept and "another loss: +5.0%" in judged.reason
    Found.train_loss_delta = -0.05
    assert speed_module._judged(made, Found, lever, 0).kept, "a lower one is none"  # type: ignore[arg-type]
    Found.repaid_after = 500
    assert speed_module._judged(made, Found, lever, 500).kept  # type: ignore[arg-type]
    judged = speed_module._judged(made, Found, lever, 499)  # type: ignore[arg-type]
    assert not judged.kept and "repaid after 500 steps only, and the run has 499" in judged.reason


def test_what_compiles_is_tried_when_more_can_be_tried_in_its_time() -> None:
    step = Phases(
        data=0.1, forward=0.4, backward=0.4, optimizer=0.1, synchronization=0.0, rest=0.0, python=0.5, total=1.0
    )
    search = speed_module._Search(Source("gpt-text"), [row.make() for row in LEVERS.values()], 300.0, print)
    order = [lever.name for lever, _ in search.trials(Setup(accumulate=8, dropouts=3, padding=0.3, blocks=3), step)]
    late = min(order.index(name) for name in ("whole-step", "compile", "compile-blocks"))
    assert all(order.index(name) < late for name in ("microbatches", "bucketing", "packed-dropout", "bf16")), order


def test_a_patch_is_read_as_it_was_written_and_refused_where_it_is_none(tmp_path: Path) -> None:
    path = write_patch(tmp_path / "new" / "patch.json", ["step=whole", "threads=1"], recipe="digits", why="faster")
    assert read_patch(path) == ("step=whole", "threads=1")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"settings": 3}')
    for name, message in {"absent": "No such file", "broken": "not JSON", "other": 'no list "set"'}.items():
        with pytest.raises(SettingError, match=message):
            read_patch(tmp_path / f"{name}.json")


@pytest.mark.slow
def test_the_verb_writes_a_patch_that_train_takes(place: str, tmp_path: Path) -> None:
    out, patch = tmp_path / "found", tmp_path / "found" / "patch.json"
    arguments = ("--budget", "30s", "--lever", "microbatches", "--out", out, "--set", "accumulate=4", "--json")
    content = verb("speed", f"{place}:recipe", *arguments).json
    written = json.loads(patch.read_text())["set"]
    assert written == ["accumulate=4", *content["patch"]], "what was measured, in its order"
    assert (out / "report.html").is_file()
    run = tmp_path / "run"
    done = verb("train", f"{place}:recipe", "--recipe-patch", patch, "--set", "steps=4", "--run", run)
    assert done.code == 0, done.err
    assert json.loads((run / "recipe.json").read_text())["overrides"] == [*written, "steps=4"]
    done = verb("train", f"{place}:recipe", "--recipe-patch", tmp_path / "absent.json")
    assert done.code == 2 and "No such file" in done.err


def test_it_is_a_function_of_the_library() -> None:
    assert lehr.speed is speed
