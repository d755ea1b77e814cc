"""A run that fails saves what it has learned, as it was after its last whole update."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Mlp, assert_same, exact, points, recipe, weights
from torch import Tensor, nn

import lehr
from lehr.base.errors import CheckpointError, NonFiniteError, StopRun
from lehr.base.protocols import Batch, Method, Observer, Place
from lehr.run.recipe import Evaluate, Save

FAILING = {"at": -1, "kind": ""}


class Model(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        hidden = super().forward(x)  # batch norm has seen the batch by now
        if self.training and FAILING["kind"] == "forward" and int(self.norm.num_batches_tracked) == FAILING["at"] + 1:
            raise torch.OutOfMemoryError("pretended")
        if (
            not self.training
            and FAILING["kind"] == "evaluation"
            and int(self.norm.num_batches_tracked) == FAILING["at"]
        ):
            raise OSError("pretended")
        return hidden


class Samples(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    def __init__(self) -> None:
        self.x, self.y = points()
        self.read = 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.read += 1
        if FAILING["kind"] == "sample" and self.read > 8 * (FAILING["at"] + 1):
            raise OSError("pretended")
        return self.x[index], self.y[index]


class Watcher(Observer):
    def step_end(self, place: Place) -> None:
        if FAILING["kind"] == "observer" and place.step == FAILING["at"]:
            raise RuntimeError("pretended")


def made(kind: str) -> lehr.Recipe:
    data = Samples() if kind == "sample" else points()
    return recipe(
        model=Model,
        data=lehr.Data(train=data, val=points(20, seed=1), batch_size=8),
        methods=(Watcher(),),
        save=Save(every=100, best=False),
        evaluate=Evaluate(every=5),
    )


@pytest.mark.parametrize(("kind", "at"), [("forward", 7), ("evaluation", 10), ("sample", 7), ("observer", 7)])
def test_whatever_fails_between_two_updates_costs_none(tmp_path: Path, kind: str, at: int) -> None:
    FAILING.update(at=at, kind=kind)
    with pytest.raises(Exception, match="pretended"):
        lehr.train(made(kind), run_dir=tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / f"step-{at:08}").is_dir()
    FAILING.update(kind="")
    rest = lehr.resume(tmp_path / "run", recipe=made(kind))
    whole = lehr.train(made(kind), run_dir=tmp_path / "twin")
    assert rest.model is not None and whole.model is not None
    assert_same(weights(rest.model), weights(whole.model))
    assert exact(tmp_path / "run") == exact(tmp_path / "twin")


def test_an_update_that_fails_halfway_is_not_saved(tmp_path: Path) -> None:
    class Torn(lehr.optim.AdamW):
        def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
            (optimizer,) = super().build(model)
            given = optimizer.step

            def step(*args: Any) -> Any:
                if int(model.norm.num_batches_tracked) == 4:  # type: ignore[arg-type]
                    with torch.no_grad():
                        model.first.weight.zero_()  # type: ignore[union-attr,operator]
                    raise RuntimeError("torn")
                return given(*args)

            optimizer.step = step  # type: ignore[method-assign]
            optimizer.register_step_pre_hook(lambda *given: None)  # so that torch's own step is taken
            return [optimizer]

    with pytest.raises(RuntimeError, match="torn"):
        lehr.train(recipe(optim=Torn(lr=0.01), save=Save(every=2)), run_dir=tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-00000002"]


def test_the_search_for_the_cause_leaves_no_trace_in_what_is_saved(tmp_path: Path) -> None:
    class Large(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * 1e3)

    x, y = points()
    x = x.clone()
    x[17] = 3e38
    with pytest.raises(NonFiniteError):
        lehr.train(recipe(model=Large, data=lehr.Data(train=(x, y), batch_size=8)), run_dir=tmp_path / "run")
    state = lehr.Trainer(recipe(model=Large), run_dir=tmp_path / "other").assembly.saver
    from lehr.checkpoint.store import CheckpointStore

    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    found = store.newest()
    assert found is not None and state is not None
    saved = store.read(found)["model"]
    assert int(saved["norm.num_batches_tracked"]) == found.step
    assert all(bool(torch.isfinite(value).all()) for value in saved.values())


def test_a_buffer_that_is_replaced_is_put_back_too(tmp_path: Path) -> None:
    class Replacing(Mlp):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.seen = self.seen + x.sum() * 0 + 1
            return super().forward(x)

    x, y = points()
    x = x.clone()
    x[17] = float("nan")
    made = recipe(model=Replacing, data=lehr.Data(train=(x, y), batch_size=8), nonfinite="skip")
    trainer = lehr.Trainer(made, run_dir=tmp_path / "run")
    trainer.fit()
    assert float(trainer.model.seen) == 15


def test_a_listener_that_fails_at_the_end_hides_nothing(tmp_path: Path) -> None:
    class Clumsy(Observer):
        def run_failed(self, place: Place, error: BaseException) -> None:
            raise KeyError("the diary is lost")

    data = lehr.Data(train=(points()[0] * float("nan"), points()[1]), batch_size=8)
    with pytest.raises(NonFiniteError) as caught:
        lehr.train(recipe(methods=(Clumsy(),), data=data), run_dir=tmp_path / "run")
    assert any("a listener failed as well: KeyError" in note for note in caught.value.__notes__)


class Drawing(Method):
    """Draws from all three generators, in the batch and in the loss."""

    changes = frozenset({"batch", "loss"})

    def batch_ready(self, batch: Batch, place: Place) -> Batch:
        return batch[0] + random.random() + float(np.random.random()) + torch.randn(()), batch[1]

    def loss_ready(self, total: Tensor, count: Tensor | float, model: nn.Module, place: Place) -> Tensor:
        return total * (1 + random.random() + float(np.random.random()))


def test_what_methods_draw_follows_from_the_step(tmp_path: Path) -> None:
    made = recipe(methods=(Drawing(),), save=Save(every=4))
    whole = lehr.train(made, run_dir=tmp_path / "whole")
    trainer = lehr.Trainer(made.model_copy(update={"evaluate": Evaluate(every=3)}), run_dir=tmp_path / "part")
    for batch in trainer.batches():
        random.random(), np.random.random(), torch.rand(())
        trainer.step(batch)
        if trainer.loop.clock.step == 8:
            break
    rest = lehr.resume(tmp_path / "part", recipe=made, allow_changes=True)
    assert whole.model is not None and rest.model is not None
    assert_same(weights(whole.model), weights(rest.model))


class Slow(Mlp):
    """Is asked to end in the middle of its second evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and FAILING["kind"] == "signal":
            self.passes += 1
            if self.passes == 9:
                os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(x)


def test_a_signal_does_not_wait_for_the_end_of_an_evaluation_and_leaves_no_trace(tmp_path: Path) -> None:
    made = recipe(model=Slow, data=lehr.Data(train=points(), val=points(48, seed=1), batch_size=8))
    FAILING.update(kind="signal")
    part = lehr.train(made, run_dir=tmp_path / "run")
    FAILING.update(kind="")
    assert (part.stopped, part.step) == ("preempted", 10)
    assert [r["step"] for r in exact(tmp_path / "run") if r["split"] == "val"] == [5]
    assert part.model.passes == 9  # type: ignore[union-attr]
    rest = lehr.resume(tmp_path / "run", recipe=made)
    whole = lehr.train(made, run_dir=tmp_path / "twin")
    assert rest.model is not None and whole.model is not None
    assert_same(weights(rest.model), weights(whole.model))
    assert exact(tmp_path / "run") == exact(tmp_path / "twin")


class Enough(Observer):
    def step_end(self, place: Place) -> None:
        if place.step == 3:
            raise StopRun("enough")


def test_what_fails_outside_of_a_step_is_told_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last save of a run that was stopped: no step is under way."""
    told: list[str] = []

    class Diary(Observer):
        def run_failed(self, place: Place, error: BaseException) -> None:
            told.append(type(error).__name__)

    def full(*given: Any, **named: Any) -> Path:
        raise CheckpointError("the disk is full")

    monkeypatch.setattr("lehr.checkpoint.store.CheckpointStore.save", full)
    made = recipe(methods=(Diary(), Enough()), save=Save(every=100, best=False))
    with pytest.raises(CheckpointError):
        lehr.train(made, run_dir=tmp_path / "run")
    assert told == ["CheckpointError"]
    assert json.loads((tmp_path / "run" / "failure.json").read_text())["step"] == 3
