"""One battery over the table of methods: exact, alone in what it changes, described by plain settings."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from helpers import exact, recipe, run_steps, same_files
from torch import Tensor, nn
from torch.utils.data import Dataset

import lehr
from lehr.base.durations import Duration, RunLength
from lehr.base.errors import SettingError
from lehr.base.protocols import Batch, Change, Method, MethodSettings, Place, RunContext
from lehr.base.settings import override, plain
from lehr.losses import Supervised, cross_entropy
from lehr.run.recipe import Evaluate, Recipe, Save, Track
from lehr.training.methods import METHODS
from lehr.training.structure import Structure

STEPS, SAVED = 12, 3
CASES: dict[str, dict[str, Any]] = {
    "swa": {"start": "40%", "every": 2, "batches": 3},
    "mixup": {"classes": 3},
    "cutmix": {"classes": 3},
    "clip_by_value": {"limit": 0.01},
    "gradual_unfreezing": {"every": 5},
    "stabilize_gradients": {"min_size": 2},
    "progressive_lowrank": {"at": 5, "ratio": 0.25, "layers": ["hidden"], "batches": 2, "allowed": 9.0},
    "dynamic_lowrank": {"levels": [[0, 0.5], [5, 0.25], [8, 0.5]], "layers": ["hidden"], "batches": 2},
    "lowrank_layers": {"layers": ["hidden", "conv"], "ratio": 0.25, "multiple": 1, "margin": 1e-9},
    "lora": {"rank": 2, "layers": ["hidden", "last"], "train": ["conv.*"]},
}
"""What a row needs on this small run, beside its defaults."""
ROWS = pytest.mark.parametrize("name", list(METHODS))


def settings(name: str) -> Any:
    return METHODS[name].make(**CASES.get(name, {}))


class Pictures(Dataset[Any]):
    """Pictures that are drawn anew each time, as augmentation does."""

    def __init__(self, n: int, seed: int) -> None:
        self.x = torch.randn(n, 2, 6, 6, generator=torch.Generator().manual_seed(seed))
        self.y = self.x.mean(dim=(2, 3)).argmax(dim=1) + (self.x.mean(dim=(1, 2, 3)) > 0.05)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index] + 0.1 * torch.randn(()), self.y[index]


class Net(nn.Module):
    """With batch norm, dropout and a draw of its own that it tells of."""

    def __init__(self, told: list[float]) -> None:
        super().__init__()
        self.told = told
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.hidden, self.drop, self.last = nn.Linear(64, 8), nn.Dropout(0.2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.told.append(float(torch.rand(())))
        x = torch.relu(self.norm(self.conv(x))).flatten(1)
        return self.last(self.drop(torch.relu(self.hidden(x))))


class MakeNet:
    """Makes the model; it has the same description each time."""

    def __init__(self, told: list[float]) -> None:
        self.told = told

    def __call__(self) -> Net:
        return Net(self.told)


class Spy(Method):
    """Notes for each step the batch as the data gave it, and what the model drew in the step."""

    changes = frozenset({"batch", "model"})

    def __init__(self) -> None:
        self.told: list[float] = []
        self.seen: dict[int, Any] = {}

    def batch_ready(self, batch: Batch, place: Place) -> Batch:
        self.told.clear()
        self.seen[place.step] = [batch[0].clone(), batch[1].clone()]
        return batch

    def step_end(self, model: nn.Module, place: Place) -> None:
        self.seen[place.step - 1].append(torch.tensor(self.told))


def make(*names: str, spy: Spy | None = None) -> Recipe:
    spy = spy or Spy()
    return recipe(
        model=MakeNet(spy.told),
        data=lehr.Data(train=Pictures(44, 0), val=Pictures(12, 1), batch_size=12),
        methods=(spy, *map(settings, names)),
        steps=STEPS,
        accumulate=2,
        save=Save(every=SAVED),
        evaluate=Evaluate(every=4),
        track=Track(every=2),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Spy]]:
    """Return a run with these methods that nothing has interrupted, and what it saw; made once."""
    folder = tmp_path_factory.mktemp("whole")

    @functools.cache
    def run(*names: str) -> tuple[Path, Spy]:
        made = make(*names)
        lehr.train(made, run_dir=folder / "-".join(("run", *names)))
        return folder / "-".join(("run", *names)), made.methods[0]

    return run


def assert_twins(one: Path, other: Path) -> None:
    assert exact(one) == exact(other)
    saved = [Path(run) / "checkpoints" / f"step-{STEPS:08d}" for run in (one, other)]
    tensors = sorted(file.name for file in saved[0].glob("*.safetensors"))
    assert {"model.safetensors", "optimizer.safetensors"} <= set(tensors)
    same_files(*saved, tensors)
    states = [json.loads((folder / "state.json").read_text())["listeners"] for folder in saved]
    assert states[0] == states[1]


@ROWS
@pytest.mark.parametrize("stop", [5, 10])
def test_interrupted_and_gone_on_with_is_its_uninterrupted_twin(
    name: str, stop: int, whole: Any, tmp_path: Path
) -> None:
    run_steps(lehr.Trainer(make(name), run_dir=tmp_path / "run"), stop)
    lehr.resume(tmp_path / "run", recipe=make(name))
    assert_twins(tmp_path / "run", whole(name)[0])


@ROWS
def test_a_second_run_of_one_recipe_is_the_first(name: str, whole: Any, tmp_path: Path) -> None:
    made = make(name)
    before = plain(made)
    for run in ("first", "second"):
        lehr.train(made, run_dir=tmp_path / run)
    assert plain(made) == before
    assert_twins(tmp_path / "first", tmp_path / "second")
    assert_twins(tmp_path / "first", whole(name)[0])


@ROWS
def test_it_moves_nobody_else_s_draws(name: str, whole: Any) -> None:
    """The samples, what their augmentation draws, and what the model draws are those of a run without it."""
    with_it, without = whole(name)[1].seen, whole()[1].seen
    assert sorted(with_it) == list(range(STEPS))
    for step in range(STEPS):
        for one, other in zip(with_it[step], without[step], strict=True):
            assert torch.equal(one, other), f"step {step}"


@ROWS
def test_it_does_something(name: str, whole: Any) -> None:
    assert exact(whole(name)[0]) != exact(whole()[0])


@ROWS
def test_declares_its_changes(name: str) -> None:
    given = settings(name)
    assert isinstance(given, MethodSettings)
    method = given.build(context())
    assert isinstance(method, Method)
    assert method.changes
    assert method.changes <= set(get_args(Change))
    assert METHODS[name].summary


def context() -> RunContext:
    model = Net([])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return RunContext(
        model=model,
        run=RunLength(100, steps_per_epoch=4),
        optimizers=[optimizer],
        structure=Structure(model, [optimizer]),
        objective=Supervised(loss=cross_entropy),
        batches=lambda limit: [(torch.zeros(4, 2, 6, 6), torch.zeros(4, dtype=torch.long))],
    )


@ROWS
def test_settings_are_plain_json_in_the_run_folder_and_make_the_method_again(name: str, whole: Any) -> None:
    stored = json.loads((whole(name)[0] / "recipe.json").read_text())["fields"]["methods"][1]
    given = settings(name)
    assert stored.pop("kind") == type(given).__name__
    assert type(given)(**stored) == given


@ROWS
def test_every_field_is_reached_by_the_method_s_name(name: str) -> None:
    made = make(name)
    for field in type(settings(name)).model_fields:
        value = getattr(made.methods[1], field)
        text = str(value) if isinstance(value, Duration | str) else json.dumps(plain(value))
        assert override(made, [f"methods.{name}.{field}={text}"]).methods[1] == made.methods[1]
    with pytest.raises(SettingError, match="has no field 'nonsense'"):
        override(made, [f"methods.{name}.nonsense=1"])


@ROWS
def test_settings_that_make_no_sense_are_refused(name: str) -> None:
    kind = METHODS[name].make
    for field, about in kind.model_fields.items():
        with pytest.raises(SettingError):
            kind(**{field: object()})
        if about.annotation in (int, float, int | None, float | None):
            for value in (-1, float("nan"), float("inf"), "much"):
                with pytest.raises(SettingError, match=f"{field}="):
                    kind(**{field: value})
    with pytest.raises(SettingError, match="has no field 'nonsense'"):
        kind(nonsense=1)
