"""Killed (SIGKILL, from another process, by the clock) and resumed, a run is bit for bit the run that never was."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import exact, same_files
from victims import live

from lehr.checkpoint.store import CheckpointStore

SEED = int(os.environ.get("LEHR_KILL_SEED", str(time.time_ns() % 10**6)))
"""Moments are drawn anew each time; a failure prints the seed that repeats its delays."""

CASES = [
    ("gpt_text", 0, 1),
    ("gpt_text", 0, 4),
    ("digits", 0, 1),
    ("digits", 0, 4),
    ("translate", 0, 1),
    ("translate", 0, 4),
    ("noisy", 0, 4),
    ("drawing", 0, 4),
    ("drawing", 2, 1),
    ("drawing", 2, 4),
]
KILLS = 2
"""For each case; the soak test has twenty."""
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["lehr.run.resume", "lehr.recipes.gpt_text", "lehr.recipes.digits", "lehr.recipes.translate", "torch._dynamo"]
)


@dataclass
class Twin:
    """The run that was left alone, and how long it took."""

    run: Path
    seconds: float


@dataclass
class Tally:
    kills: int = 0
    exact: int = 0
    inside_a_save: int = 0
    before_the_first: int = 0


@pytest.fixture(scope="module")
def tally() -> Iterator[Tally]:
    counted = Tally()
    first = PROCESSES.Process(target=int)  # starts the server, which imports torch
    first.start()
    first.join()
    yield counted
    print(f"\n{counted} (LEHR_KILL_SEED={SEED})")


def alone(run: Path, name: str, overrides: list[str]) -> Twin:
    started = time.perf_counter()
    process = PROCESSES.Process(target=live, args=(run, name, overrides))
    process.start()
    process.join()
    assert process.exitcode == 0, run.with_suffix(".log").read_text()
    return Twin(run, time.perf_counter() - started)


def killed(run: Path, name: str, overrides: list[str], after: float) -> bool | None:
    """Start or go on with a run and kill it; returns whether that was inside a save, None if it had ended before."""
    process = PROCESSES.Process(target=live, args=(run, name, overrides))
    process.start()
    process.join(after)
    if not process.is_alive():
        return None
    process.kill()
    process.join()
    marks = run.with_suffix(".marks")
    return marks.is_file() and marks.read_bytes().endswith(b"<")


def state(run: Path) -> dict[str, Any]:
    """Return the last checkpoint's plain state without the clock's seconds."""
    found = CheckpointStore(run / "checkpoints").newest()
    assert found is not None
    plain = json.loads((found.path / "state.json").read_bytes())
    return plain | {"clock": {k: v for k, v in plain["clock"].items() if not k.endswith("seconds")}, "records": None}


def assert_twins(run: Path, twin: Path) -> None:
    last = sorted((twin / "checkpoints").iterdir())[-1].name
    same_files(run / "checkpoints" / last, twin / "checkpoints" / last, ["model.safetensors", "optimizer.safetensors"])
    assert state(run) == state(twin)
    assert exact(run) == exact(twin)


def kill_and_compare(twin: Twin, run: Path, name: str, overrides: list[str], draw: random.Random, tally: Tally) -> bool:
    """Kill a run once, go on with it to the end and compare; returns whether the kill fell into a save."""
    for attempt in range(20):  # a delay may fall behind the end
        inside = killed(folder := run / str(attempt), name, overrides, draw.uniform(0.02, twin.seconds))
        if inside is not None:
            break
    else:
        pytest.fail("each of 20 runs ended before its kill")
    tally.kills += 1
    tally.inside_a_save += inside
    tally.before_the_first += not any(folder.glob("checkpoints/step-*"))
    alone(folder, name, overrides)
    assert_twins(folder, twin.run)
    tally.exact += 1
    return inside


def settings(workers: int, accumulate: int) -> list[str]:
    return [f"accumulate={accumulate}"] + ([f"data.workers={workers}"] if workers else [])


def play(folder: Path, case: tuple[str, int, int], kills: int, tally: Tally) -> None:
    name, workers, accumulate = case
    overrides = settings(workers, accumulate)
    twin = alone(folder / "twin", name, overrides)
    draw = random.Random(f"{SEED} {case}")
    for kill in range(kills):
        (place := folder / f"kill-{kill}").mkdir()
        kill_and_compare(twin, place, name, overrides, draw, tally)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-workers{case[1]}-accumulate{case[2]}")
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path: Path, case: tuple[str, int, int], tally: Tally) -> None:
    play(tmp_path, case, KILLS, tally)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wanted"), [("noisy", 3), ("translate", 2)])
def test_a_run_killed_inside_a_save_does_so_too(tmp_path: Path, name: str, wanted: int, tally: Tally) -> None:
    """With a checkpoint after each step most of the time is spent in saves, so a clock hits them."""
    overrides = ["steps=30", "save.every=1"]
    twin = alone(tmp_path / "twin", name, overrides)
    draw = random.Random(f"{SEED} {name}")
    inside = 0
    for attempt in range(10 * wanted):
        (place := tmp_path / f"kill-{attempt}").mkdir()
        inside += kill_and_compare(twin, place, name, overrides, draw, tally)
        if inside == wanted:
            return
    pytest.fail(f"only {inside} of {10 * wanted} kills fell into a save")


@pytest.mark.slow
def test_killed_again_and_again_it_still_ends_the_same(tmp_path: Path, tally: Tally) -> None:
    twin = alone(tmp_path / "twin", "drawing", [])
    draw = random.Random(f"{SEED} again")
    before = tally.kills
    for _ in range(6):
        inside = killed(tmp_path / "run", "drawing", [], draw.uniform(0.1, twin.seconds * 0.7))
        tally.kills += inside is not None
        tally.inside_a_save += bool(inside)
    alone(tmp_path / "run", "drawing", [])
    assert_twins(tmp_path / "run", twin.run)
    tally.exact += tally.kills - before


@pytest.mark.soak
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-workers{case[1]}-accumulate{case[2]}")
def test_two_hundred_kills(tmp_path: Path, case: tuple[str, int, int], tally: Tally) -> None:
    play(tmp_path, case, 20, tally)
