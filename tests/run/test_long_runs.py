"""Long runs: memory stays flat, nothing of a step outlives it, and epochs follow one another without a pause."""

from __future__ import annotations

import gc
import itertools
import time
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import points, recipe
from torch import Tensor, nn
from torch.utils.data import IterableDataset

import lehr
from lehr.base.protocols import Batch, Method, Observer, Place, Record
from lehr.run.recipe import Evaluate, Save, Track

EVER = {"evaluate": Evaluate(every="100%"), "save": Save(every="100%", best=False)}


class Watch(Observer):
    """Measures what was allocated in Python after the first of two steps and is still there at the second."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.grown = first, last, -1

    def step_end(self, place: Place) -> None:
        if place.step == self.first:
            tracemalloc.start()
        elif place.step == self.last:
            gc.collect()
            self.grown = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()


class State(IterableDataset[Any]):
    """A stream whose position is large, as that of one with a shuffle buffer."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[Any]:
        x, y = points(48)
        while self.at < 48:
            self.at += 1
            yield x[self.at - 1], y[self.at - 1]
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at, "buffer": [float(i) for i in range(300)]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


@pytest.mark.parametrize(
    "changes",
    [
        {"track": Track(every=10)},
        {"track": Track(every=10**6)},
        {"evaluate": Evaluate(every=50), "save": Save(every=300)},
    ],
    ids=["records", "no record", "evaluations and checkpoints"],
)
def test_memory_is_flat(tmp_path: Path, changes: dict[str, Any]) -> None:
    watch = Watch(1000, 3000)
    lehr.train(recipe(**EVER | {"steps": 3010, "methods": (watch,)} | changes), run_dir=tmp_path / "run")
    assert 0 <= watch.grown < 200_000, "half of what a thousand pending steps take, or less"


def test_positions_of_a_stream_are_not_hoarded(tmp_path: Path) -> None:
    watch = Watch(50, 250)
    data = lehr.Data(train=State(), val=points(20), batch_size=8)
    made = recipe(**EVER | {"steps": 260, "methods": (watch,), "data": data, "track": Track(every=10**6)})
    lehr.train(made, run_dir=tmp_path / "run")
    assert 0 <= watch.grown < 100_000


class Keep(Method):
    """Keeps whatever a run hands to those who listen: its records for good, its tensors weakly."""

    changes = frozenset({"batch", "loss"})

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.tensors: list[weakref.ref[Tensor]] = []
        self.alive: list[int] = []

    def log(self, record: Record) -> None:
        self.records.append(record)

    def close(self) -> None:
        pass

    def batch_ready(self, batch: Batch, place: Place) -> Batch:
        self.alive.append(sum(ref() is not None for ref in self.tensors))
        return batch

    def loss_ready(self, total: Tensor, count: Tensor | float, model: nn.Module, place: Place) -> Tensor:
        assert total.requires_grad
        self.tensors += [weakref.ref(total)]
        return total


@pytest.mark.parametrize("read", ["step", "record"])
def test_no_record_and_no_step_holds_on_to_a_graph(tmp_path: Path, read: str) -> None:
    """Checked in the middle of a window of ten records, with and without reading each step."""
    keep = Keep()
    made = recipe(methods=(keep,), steps=20, track=Track(every=10, read=read), **EVER)
    gc.disable()  # what is let go of is let go of at once
    try:
        lehr.train(made, run_dir=tmp_path / "run", trackers=[lambda total: keep])
    finally:
        gc.enable()
    assert len(keep.tensors) == 20 and set(keep.alive) == {0}
    assert len(keep.records) == 3
    for value in itertools.chain.from_iterable(record.values() for record in keep.records):
        assert type(value) in (int, float, str)


class Stamps(Observer):
    def __init__(self) -> None:
        self.times: list[float] = []

    def step_end(self, place: Place) -> None:
        self.times.append(time.perf_counter())


def test_no_pause_between_epochs(tmp_path: Path) -> None:
    """With as many samples as a large set in memory has; the best of several changes, since the machine is shared."""
    stamps, samples, size = Stamps(), 200_000, 20_000
    data = lehr.Data(
        train=(torch.ones(samples, 4), torch.zeros(samples, dtype=torch.long)), val=points(20), batch_size=size
    )
    made = recipe(data=data, methods=(stamps,), steps=81, model=lambda: nn.Linear(4, 3), **EVER)
    lehr.train(made, run_dir=tmp_path / "run")
    gaps = [after - before for before, after in itertools.pairwise(stamps.times)]
    per_epoch = samples // size
    between = [gap for place, gap in enumerate(gaps, start=1) if place % per_epoch == 0]
    within = sorted(gap for place, gap in enumerate(gaps, start=1) if place % per_epoch)
    assert len(between) == 8
    assert min(between) - within[len(within) // 2] < 0.05
