"""The ways to run a recipe from Python, all of them one run; and what they leave behind in the process: nothing."""

from __future__ import annotations

import functools
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Mlp, assert_same, exact, points, recipe, run_steps, same_files, weights
from torch import Tensor, nn

import lehr
from lehr.base.errors import DataError, NonFiniteError, SettingError, StopRun
from lehr.base.protocols import Observer
from lehr.run.folder import RunFolder
from lehr.run.recipe import Evaluate, Save

FILES = ["model.safetensors", "optimizer.safetensors"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    lehr.train(recipe(), run_dir=run)
    return run


def assert_same_runs(run: Path, other: Path) -> None:
    """Compare records, and the weights and optimizer state of every checkpoint, bit for bit."""
    assert exact(run) == exact(other)
    steps = [sorted(path.name for path in (r / "checkpoints").iterdir()) for r in (run, other)]
    assert steps[0] == steps[1] and len(steps[0]) >= 2
    for step in steps[0]:
        same_files(run / "checkpoints" / step, other / "checkpoints" / step, FILES)


def source(run: Path) -> tuple[str, str]:
    content = json.loads((run / "recipe.json").read_text())["source"]
    return content["kind"], content["function"]


def made_here() -> lehr.Recipe:
    return recipe()


def test_a_loop_of_the_users_own_is_fit(whole: Path, tmp_path: Path) -> None:
    trainer = lehr.Trainer(recipe(), run_dir=tmp_path / "run")
    losses = []
    for batch in trainer.batches():
        trainer.step(batch)
        losses.append(batch[0].sum())
    result = trainer.finish()
    assert len(losses) == 15
    assert_same_runs(tmp_path / "run", whole)
    there = json.loads((whole / "result.json").read_text())
    for name in ("step", "stopped", "train_loss", "val_loss", "best_val_loss", "metrics"):
        assert getattr(result, name) == there[name]
    assert result.model is trainer.model and result.folder == tmp_path / "run"


def test_a_function_a_file_and_overrides(whole: Path, tmp_path: Path) -> None:
    lehr.train(made_here, run_dir=tmp_path / "function")
    assert_same_runs(tmp_path / "function", whole)
    assert source(tmp_path / "function")[1] == "made_here"
    lehr.train(f"{__file__}:made_here", run_dir=tmp_path / "file", overrides=["steps=15"])
    assert_same_runs(tmp_path / "file", whole)
    assert source(tmp_path / "file") == ("file", "made_here")
    assert lehr.train(made_here, run_dir=tmp_path / "less", overrides=["steps=3"]).step == 3
    assert json.loads((tmp_path / "less" / "recipe.json").read_text())["overrides"] == ["steps=3"]


@pytest.mark.parametrize(
    "make", [functools.partial(recipe, steps=3), lambda: recipe(steps=3)], ids=["partial", "lambda"]
)
def test_a_function_that_cannot_be_found_again_is_one_of_a_session(
    make: Callable[[], lehr.Recipe], tmp_path: Path
) -> None:
    assert lehr.train(make, run_dir=tmp_path / "run").step == 3
    assert source(tmp_path / "run") == ("session", "")


def test_what_returns_no_recipe_is_refused() -> None:
    with pytest.raises(SettingError, match="returned Mlp; it must return a lehr.Recipe"):
        lehr.train(Mlp)  # type: ignore[arg-type]


@pytest.mark.parametrize("stop", [1, 4, 5, 7, 14])
def test_left_early_and_gone_on_with_it_is_the_whole(whole: Path, tmp_path: Path, stop: int) -> None:
    run = tmp_path / "run"
    run_steps(lehr.Trainer(recipe(), run_dir=run), stop)
    assert not (run / "failure.json").exists()
    lehr.resume(run, recipe=recipe())
    assert_same_runs(run, whole)


def test_left_early_it_is_not_called_finished(tmp_path: Path) -> None:
    trainer = lehr.Trainer(recipe(), run_dir=tmp_path / "run")
    run_steps(trainer, 7)
    result = trainer.finish()
    assert (result.step, result.stopped) == (7, "left")
    assert RunFolder(tmp_path / "run").ended() is None, "`lehr resume` goes on with it"


def test_interrupted_three_times_in_a_row(whole: Path, tmp_path: Path) -> None:
    class Pause(Observer):
        def step_end(self, place: Any) -> None:
            if place.step in (3, 8, 12):
                raise StopRun("preempted")

    run, made = tmp_path / "run", recipe(methods=(Pause(),))
    lehr.train(made, run_dir=run)
    for step in (8, 12, 15):
        assert lehr.resume(run, recipe=made).step == step
    assert exact(run) == exact(whole)
    same_files(run / "checkpoints" / "step-00000015", whole / "checkpoints" / "step-00000015", FILES)


def test_a_session_s_run_needs_its_recipe_and_says_so(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_steps(lehr.Trainer(recipe(), run_dir=run), 7)
    with pytest.raises(
        SettingError, match=r"interactive session.*resume it there with lehr.resume\('.*run', recipe=...\)"
    ):
        lehr.resume(run)
    with pytest.raises(SettingError, match=r"optim.lr: 0.01 then, 0.02 now"):
        lehr.resume(run, recipe=recipe(optim=lehr.optim.AdamW(lr=0.02)))
    assert lehr.resume(run, recipe=recipe()).step == 15


class Noisy(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Draws from every global generator, and fails where it is told to."""

    def __init__(self, fail: bool) -> None:
        (self.x, self.y), self.fail, self.reads = points(), fail, 0

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.reads += 1
        if self.fail and self.reads > 60:
            raise OSError("a disk error")
        return self.x[index] + random.random() + float(np.random.rand()) + torch.rand(()), self.y[index]


class Wrong(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("the model is wrong")


def fit(trainer: lehr.Trainer) -> None:
    trainer.fit()


def loop(trainer: lehr.Trainer) -> None:
    run_steps(trainer, 100)
    trainer.finish()


def leave(trainer: lehr.Trainer) -> None:
    run_steps(trainer, 4)
    trainer.finish()


ENDS: dict[str, tuple[Callable[[lehr.Trainer], None], dict[str, Any], type[Exception] | None]] = {
    "fit": (fit, {"data": lehr.Data(train=Noisy(False), val=points(20), batch_size=8)}, None),
    "a loop of one's own": (loop, {}, None),
    "a limited evaluation": (loop, {"evaluate": Evaluate(every=5, batches=1), "data": lehr.Data(train=points(), val=points(20), batch_size=8)}, None),
    "a loop that is left": (leave, {}, None),
    "never run": (lambda trainer: None, {}, None),
    "data that fails": (fit, {"data": lehr.Data(train=Noisy(True), val=points(20), batch_size=8)}, DataError),
    "a loss that is not finite": (fit, {"optim": lehr.optim.AdamW(lr=1e30), "clip": None}, NonFiniteError),
    "a model that fails": (fit, {"model": Wrong}, SettingError),
    "refused when assembled": (fit, {"accumulate": 9}, SettingError),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDS)
def test_the_process_is_left_as_it_was(
    case: str, tmp_path: Path, global_draws: Callable[[], tuple[float, ...]]
) -> None:
    """Signal handlers and the number of threads are looked at after every test."""
    run, changes, error = ENDS[case]
    assert lehr.Trainer  # imported before the draws: Rich draws a number when it is imported
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = global_draws()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    if error is None:
        run(lehr.Trainer(recipe(threads=2, **changes), run_dir=tmp_path / "run"))
    else:
        with pytest.raises(error):
            run(lehr.Trainer(recipe(threads=2, **changes), run_dir=tmp_path / "run"))
    assert torch.get_num_threads() == 1
    assert global_draws() == expected


def test_the_run_has_its_own_threads(tmp_path: Path) -> None:
    seen = []

    class Net(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            return super().forward(x)

    trainer = lehr.Trainer(
        recipe(model=Net, threads=2, steps=3, data=lehr.Data(train=points(), val=points(20), batch_size=8)),
        run_dir=tmp_path / "run",
    )
    trainer.fit()
    assert set(seen) == {2}
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["threads"] == 2


def test_a_second_fit_is_refused(tmp_path: Path) -> None:
    trainer = lehr.Trainer(recipe(steps=2), run_dir=tmp_path / "run")
    trainer.fit()
    with pytest.raises(SettingError, match="this Trainer has run already, in .*go on with the run by lehr.resume"):
        trainer.fit()


def test_importing_a_recipe_s_file_leaves_no_module_of_that_name_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(Path(__file__).read_text())
    lehr.train(f"{tmp_path / 'json.py'}:made_here", run_dir=tmp_path / "run", overrides=["steps=2"])
    assert sys.modules["json"] is json
    sys.path.remove(str(tmp_path))


def test_weights_follow_from_the_seed_alone(tmp_path: Path) -> None:
    first = lehr.Trainer(recipe(), run_dir=tmp_path / "a")
    torch.manual_seed(99)
    nn.Linear(3, 3)
    second = lehr.Trainer(recipe(save=Save(every=1), metrics=()), run_dir=tmp_path / "b")
    assert_same(weights(first.model), weights(second.model))
    other = lehr.Trainer(recipe(seed=1), run_dir=tmp_path / "c")
    assert not torch.equal(other.model.first.weight, first.model.first.weight)
