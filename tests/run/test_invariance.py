"""Switching something on that only looks on changes no bit of the weights."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Mlp, assert_same, points, recipe, weights
from torch import Tensor, nn
from torch.utils.data import Dataset

import lehr
from lehr.base.errors import SettingError
from lehr.base.protocols import Observer, Place, Record
from lehr.run import assemble as assembly
from lehr.run import finish
from lehr.run.recipe import Evaluate, Recipe, Save, Track
from lehr.track.progress import Progress

X, Y = points(48)


class Samples(Dataset[Any]):
    """Draws, so that whatever draws beside it would show."""

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return X[index] + random.gauss(0, 0.1) + float(np.random.normal(0, 0.1)) + 0.1 * torch.randn(()), Y[index]


def data(**changes: Any) -> lehr.Data:
    return lehr.Data(**{"train": Samples(), "val": points(20, seed=1), "batch_size": 8} | changes)


class Restless(Observer):
    """Looks at everything, and draws from every generator while it does."""

    def draw(self) -> None:
        random.random(), np.random.rand(), torch.rand(3), torch.nn.Linear(2, 2)

    def run_start(self, place: Place) -> None:
        self.draw()

    def step_end(self, place: Place) -> None:
        self.draw()

    def logged(self, place: Place, record: Record) -> None:
        self.draw()

    def eval_start(self, place: Place) -> None:
        self.draw()

    def save_done(self, place: Place, path: str) -> None:
        self.draw()


def noisy_metric(output: Tensor, target: Tensor) -> tuple[Tensor, int]:
    return output.sum() + torch.rand(()), len(target)


def compute(name: str) -> lehr.metrics.Metric:
    return lehr.metrics.Metric(name=name, of="outputs", compute=noisy_metric, goal="max")


CHANGES: dict[str, dict[str, Any]] = {
    "no validation": {"data": data(val=None), "metrics": (), "evaluate": Evaluate()},
    "validation after each step": {"evaluate": Evaluate(every=1)},
    "validation on samples that draw": {"data": data(val=Samples()), "evaluate": Evaluate(every=2)},
    "a part of the validation data": {"evaluate": Evaluate(every=3, batches=1)},
    "larger batches of it": {"data": data(val_batch_size=20)},
    "metrics that draw": {"metrics": (compute("noise"), compute("more"))},
    "another monitor": {"evaluate": Evaluate(every=2, monitor="accuracy")},
    "a record of each step": {"track": Track(every=1)},
    "hardly any record": {"track": Track(every=100)},
    "tensorboard": {"track": Track(every=1, tensorboard=True)},
    "a checkpoint after each step": {"save": Save(every=1, keep=9)},
    "the last checkpoint only": {"save": Save(every="100%", best=False, keep=1)},
    "without the best": {"save": Save(every=5, best=False)},
    "observers that draw": {"methods": (Restless(), Restless())},
    "2 workers": {"data": data(workers=2)},
    "1 worker": {"data": data(workers=1)},
    "all at once": {
        "data": data(workers=2, val=Samples(), val_batch_size=3),
        "evaluate": Evaluate(every=1),
        "track": Track(every=1, tensorboard=True),
        "save": Save(every=1),
        "methods": (Restless(),),
    },
}


def made(**changes: Any) -> Recipe:
    return recipe(**{"data": data(), "steps": 14} | changes)


def trained(run: Path, given: Recipe, **how: Any) -> dict[str, Tensor]:
    model = lehr.train(given, run_dir=run, **how).model
    assert model is not None
    return weights(model)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return trained(tmp_path_factory.mktemp("plain") / "run", made())


@pytest.mark.parametrize("change", CHANGES)
def test_what_only_looks(tmp_path: Path, plain: dict[str, Tensor], change: str) -> None:
    assert_same(trained(tmp_path / "run", made(**CHANGES[change])), plain)


def test_progress_and_yardsticks(tmp_path: Path, plain: dict[str, Tensor], capsys: pytest.CaptureFixture[str]) -> None:
    found = trained(tmp_path / "run", made(), trackers=[lambda total: Progress(total_steps=total)], yardsticks=True)
    assert "step 2/14" in capsys.readouterr().err
    assert_same(found, plain)


def nothing(*_args: Any, **_named: Any) -> None:
    return None


@pytest.mark.parametrize("part", ["preflight", "report"])
def test_without_the_look_before_and_the_report_after(
    tmp_path: Path, plain: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    place = (assembly, "preflight") if part == "preflight" else (finish, "write_report")
    monkeypatch.setattr(*place, nothing)
    assert_same(trained(tmp_path / "run", made()), plain)


def fails(run: Path) -> None:
    with pytest.raises(SettingError):
        trained(run, made(model=dict))


OTHERS: dict[str, Callable[[Path], Any]] = {
    "another model": lambda run: trained(run, made(model=lambda: Mlp(width=33), seed=4)),
    "a run that fails": fails,
    "a loop that is left": lambda run: next(lehr.Trainer(made(seed=2), run_dir=run).batches()),
    "draws and a seed of the user's": lambda run: (torch.manual_seed(5), random.seed(6), nn.Linear(9, 9)),
}


@pytest.mark.parametrize("other", OTHERS)
def test_whatever_was_done_before_in_the_process(
    tmp_path: Path, plain: dict[str, Tensor], global_draws: Callable[[], Any], other: str
) -> None:
    OTHERS[other](tmp_path / "other")
    assert_same(trained(tmp_path / "run", made()), plain)


def test_a_change_that_is_one_shows(tmp_path: Path, plain: dict[str, Tensor]) -> None:
    for name, change in {
        "seed": {"seed": 1},
        "clip": {"clip": 0.1},
        "model": {"model": lambda: Mlp(dropout=0)},
    }.items():
        found = trained(tmp_path / name, made(**change))
        assert not all(torch.equal(found[key], plain[key]) for key in plain), name
