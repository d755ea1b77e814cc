"""Left anywhere and gone on with: sample ids, draws, losses and weights are those of the run that was not interrupted.

Each run is compared with one of its own kind that read the same data in this process, so that worker processes, too,
must not show.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Mlp, exact, points, recipe, run_steps, same_files
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, WeightedRandomSampler, default_collate

import lehr
from lehr.base.errors import SettingError
from lehr.base.protocols import Batch, Method, Place
from lehr.losses import Supervised, cross_entropy
from lehr.run.recipe import Evaluate, Recipe, Save, Track

STEPS, SAVED = 15, 3
"""44 samples in batches of 12 are 4 steps an epoch, the last one short: 15 steps end in epoch 3."""
STOPS = [1, 4, 6, 11, 14]
"""In epochs 0 to 3; before the first checkpoint, at an epoch's end, at a checkpoint, between two."""
X, Y = points(44)
VAL = points(20, seed=1)


def sample(index: int) -> tuple[int, Tensor, Tensor, Tensor]:
    """Return a sample that draws from every global generator: (id, draws, input, target)."""
    draws = torch.tensor([random.random(), float(np.random.normal()), float(torch.randn(()))])
    return index, draws, X[index] + 0.1 * draws.sum(), Y[index]


class Samples(Dataset[Any]):
    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return sample(index)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return map(sample, range(len(X)))


class StatefulStream(Stream):
    def __init__(self) -> None:
        self.at = 0
        self.starts: list[int] = []

    def __iter__(self) -> Iterator[Any]:
        self.starts.append(self.at)
        while self.at < len(X):
            self.at += 1
            yield sample(self.at - 1)
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


class Spy(Method):
    """Notes the ids and the draws of each step's batch; a step that is made again must be what it was."""

    changes = frozenset({"batch"})

    def __init__(self) -> None:
        self.seen: dict[int, list[Any]] = {}

    def batch_ready(self, batch: Batch, place: Place) -> Batch:
        found = [batch[0].tolist(), batch[1].tolist()]
        assert self.seen.setdefault(place.step, found) == found, f"step {place.step} was another one before"
        return batch


def objective(model: nn.Module, batch: Batch) -> Any:
    return Supervised(loss=cross_entropy)(model, batch[-2:])


def make(data: lehr.Data, **changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "model": functools.partial(Mlp, dropout=0.2),
        "data": data,
        "objective": objective,
        "metrics": (),
        "methods": (Spy(),),
        "steps": STEPS,
        "save": Save(every=SAVED),
        "evaluate": Evaluate(every=5),
        "track": Track(every=2),
    }
    return recipe(**fields | changes)


def seen(made: Recipe) -> dict[int, list[Any]]:
    return made.methods[0].seen


def assert_twins(run: Path, made: Recipe, twin: Path, twins: Recipe) -> None:
    assert seen(made) == seen(twins) and sorted(seen(made)) == list(range(STEPS))
    assert exact(run) == exact(twin)
    last = f"checkpoints/step-{STEPS:08d}"
    same_files(run / last, twin / last, ["model.safetensors", "optimizer.safetensors"])


def interrupted(run: Path, make_: Callable[[], Recipe], stop: int) -> Recipe:
    """Leave a run after ``stop`` steps and go on with it, with objects made anew as another process would."""
    first = make_()
    run_steps(lehr.Trainer(first, run_dir=run), stop)
    second = make_()
    seen(second).update(seen(first))
    lehr.resume(run, recipe=second)
    return second


KINDS: dict[str, Callable[[], lehr.Data]] = {
    "samples": lambda: lehr.Data(train=Samples(), val=VAL, batch_size=12),
    "samples, 2 workers": lambda: lehr.Data(train=Samples(), val=VAL, batch_size=12, workers=2),
}


@functools.cache
def _whole(folder: Path, accumulate: int) -> tuple[Path, Recipe]:
    made = make(KINDS["samples"](), accumulate=accumulate)
    lehr.train(made, run_dir=folder / f"whole-{accumulate}")
    return folder / f"whole-{accumulate}", made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_stopped_anywhere(folder: Path, tmp_path: Path, kind: str, accumulate: int, stop: int) -> None:
    twin, twins = _whole(folder, accumulate)
    made = interrupted(tmp_path / "run", lambda: make(KINDS[kind](), accumulate=accumulate), stop)
    assert_twins(tmp_path / "run", made, twin, twins)


def test_nothing_that_was_passed_is_read_again(tmp_path: Path) -> None:
    """But for the first batch of all, on which the model is tried before anything is restored."""
    data = KINDS["samples"]()
    run_steps(lehr.Trainer(make(data), run_dir=tmp_path / "run"), 14)
    del data.train.read[:]
    again = make(KINDS["samples"]())
    lehr.resume(tmp_path / "run", recipe=again)
    done = [i for step in range(12, STEPS) for i in seen(again)[step][0]]  # the checkpoint is of step 12
    first, rest = again.data.train.read[:12], again.data.train.read[12:]
    assert rest == done
    assert len(first) == 12


class Backwards(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(len(X) - 1, -1, -1))

    def __len__(self) -> int:
        return len(X)


class Buckets(Sampler[list[int]]):
    """Batches of unequal size, in an order drawn from the global generators."""

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(len(X)).tolist()
        cuts = [0, 5, 16, 30, len(X)]
        batches = [order[a:b] for a, b in itertools.pairwise(cuts)]
        random.shuffle(batches)
        return iter(batches)

    def __len__(self) -> int:
        return 4


def double(samples: list[Any]) -> Batch:
    """Hand each sample out twice."""
    return default_collate(samples + samples)


def loader(**given: Any) -> lehr.Data:
    return lehr.Data(train=DataLoader(Samples(), **given), val=VAL)


OTHERS: dict[str, Callable[[], lehr.Data]] = {
    "a stream with a state": lambda: lehr.Data(train=StatefulStream(), val=VAL, batch_size=12),
    "a stream with a state, read ahead": lambda: lehr.Data(train=StatefulStream(), val=VAL, batch_size=12, workers=1),
    "a stream that is replayed": lambda: lehr.Data(train=Stream(), val=VAL, batch_size=12, replay=True),
    "a stream that is replayed, read ahead": lambda: lehr.Data(
        train=Stream(), val=VAL, batch_size=12, replay=True, workers=1
    ),
    "a DataLoader that shuffles": lambda: loader(batch_size=12, shuffle=True),
    "its own generator": lambda: loader(batch_size=12, shuffle=True, generator=torch.Generator().manual_seed(7)),
    "its own sampler": lambda: loader(batch_size=12, sampler=Backwards()),
    "a weighted sampler": lambda: loader(
        batch_size=12, sampler=WeightedRandomSampler(torch.arange(1.0, 45.0).tolist(), 44)
    ),
    "its own batch sampler": lambda: loader(batch_sampler=Buckets(), num_workers=2),
    "its own collate": lambda: loader(batch_size=12, shuffle=True, collate_fn=double),
    "a DataLoader of a stream": lambda: lehr.Data(train=DataLoader(Stream(), batch_size=12), val=VAL, replay=True),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_of_data(tmp_path: Path, kind: str) -> None:
    def made() -> Recipe:
        return make(OTHERS[kind]())

    twins = made()
    lehr.train(twins, run_dir=tmp_path / "whole")
    for stop in (5, 11):
        found = interrupted(tmp_path / str(stop), made, stop)
        assert_twins(tmp_path / str(stop), found, tmp_path / "whole", twins)


def test_what_the_user_s_dataloader_says_is_what_is_trained_on(tmp_path: Path) -> None:
    made = make(OTHERS["its own sampler"]())
    lehr.train(made, run_dir=tmp_path / "backwards")
    assert [seen(made)[step][0] for step in (0, 3, 4)] == [
        [*range(43, 31, -1)],
        [*range(7, -1, -1)],
        [*range(43, 31, -1)],
    ]
    made = make(OTHERS["its own collate"]())
    lehr.train(made, run_dir=tmp_path / "double")
    assert all(ids[: len(ids) // 2] == ids[len(ids) // 2 :] for ids, _ in seen(made).values())
    made = make(OTHERS["its own batch sampler"]())
    lehr.train(made, run_dir=tmp_path / "buckets")
    assert [sorted(len(seen(made)[step][0]) for step in range(e, e + 4)) for e in (0, 4, 8)] == [[5, 11, 14, 14]] * 3


def test_a_stream_without_a_state_is_refused_with_the_reason_before_anything_is_lost(tmp_path: Path) -> None:
    run, data = tmp_path / "run", {"train": Stream(), "val": VAL, "batch_size": 12}
    run_steps(lehr.Trainer(make(lehr.Data(**data)), run_dir=run), 5)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(SettingError, match=r"read 12 items of a stream that has no state_dict.*--set data.replay=true"):
        lehr.resume(run, recipe=make(lehr.Data(**data)))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    again = make(lehr.Data(**data))
    assert lehr.resume(run, recipe=again, overrides=["data.replay=true"]).step == STEPS


def test_a_stream_with_a_state_is_not_read_from_its_beginning(tmp_path: Path) -> None:
    run_steps(lehr.Trainer(make(OTHERS["a stream with a state"]()), run_dir=tmp_path / "run"), 5)
    again = make(OTHERS["a stream with a state"]())
    lehr.resume(tmp_path / "run", recipe=again)
    assert again.data.train.starts[:2] == [0, 12], "once for the first check, then epoch 1 from step 5 on"
