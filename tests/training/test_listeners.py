"""Who is called when; observers cannot write, methods declare what they change, stopping is a request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_same, points, recipe, weights
from torch import Tensor, nn

import lehr
from lehr.base.errors import CheckpointError, NonFiniteError, RunError, SettingError, StopRun
from lehr.base.protocols import Batch, Method, Observer, Place, Record
from lehr.run.recipe import Evaluate, Save, Track
from lehr.training.events import Event, Listeners


class Diary(Observer):
    """Writes down every event."""

    def __init__(self, name: str = "", to: list[str] | None = None) -> None:
        self.name, self.lines = name, [] if to is None else to

    def note(self, what: str, place: Place) -> None:
        self.lines.append(f"{self.name}{what}@{place.step}")

    def run_start(self, place: Place) -> None:
        self.note("run_start", place)

    def step_end(self, place: Place) -> None:
        self.note("step_end", place)

    def logged(self, place: Place, record: Record) -> None:
        self.note(f"logged:{record['split']}", place)

    def eval_start(self, place: Place) -> None:
        self.note("eval_start", place)

    def eval_end(self, place: Place, values: Mapping[str, float]) -> None:
        self.note("eval_end", place)

    def save_done(self, place: Place, path: str) -> None:
        assert (Path(path) / "manifest.json").is_file()
        self.note("save_done", place)

    def run_end(self, place: Place, reason: str) -> None:
        self.note(f"run_end:{reason}", place)

    def run_failed(self, place: Place, error: BaseException) -> None:
        self.note(f"run_failed:{type(error).__name__}", place)


def test_the_events_of_a_run_in_their_order(tmp_path: Path) -> None:
    diary = Diary()
    made = recipe(methods=(diary,), steps=2, track=Track(every=1), evaluate=Evaluate(every=2), save=Save(every=1))
    lehr.train(made, run_dir=tmp_path / "run")
    assert diary.lines == [
        "run_start@0",
        "step_end@1",
        "logged:train@1",
        "save_done@1",
        "step_end@2",
        "logged:train@2",
        "eval_start@2",
        "logged:val@2",
        "eval_end@2",
        "save_done@2",
        "run_end:finished@2",
    ]


def test_a_failure_is_the_last_event(tmp_path: Path) -> None:
    diary = Diary()
    data = lehr.Data(train=(points()[0] * float("nan"), points()[1]), batch_size=8)
    with pytest.raises(NonFiniteError):
        lehr.train(recipe(methods=(diary,), data=data), run_dir=tmp_path / "run")
    assert diary.lines[-2:] == ["save_done@0", "run_failed:NonFiniteError@0"]


def test_observers_are_called_in_list_order_and_close_in_reverse() -> None:
    lines: list[str] = []
    listeners = Listeners([Diary("a:", lines), Diary("b:", lines)])
    place = Place(0, 0, 1)
    listeners.emit(Event.RUN_START, place)
    listeners.emit(Event.RUN_END, place, "finished")
    assert lines == ["a:run_start@0", "b:run_start@0", "b:run_end:finished@0", "a:run_end:finished@0"]


def test_a_stop_is_a_request_and_nobody_is_left_out(tmp_path: Path) -> None:
    class Enough(Observer):
        def step_end(self, place: Place) -> None:
            if place.step == 3:
                raise StopRun("enough")

    diary = Diary()
    result = lehr.train(recipe(methods=(Enough(), diary)), run_dir=tmp_path / "run")
    assert (result.stopped, result.step) == ("enough", 3)
    assert "step_end@3" in diary.lines
    assert diary.lines[-2:] == ["save_done@3", "run_end:enough@3"]


def test_a_method_may_ask_for_a_stop_after_an_update_and_not_within_one(tmp_path: Path) -> None:
    class After(Method):
        changes = frozenset({"model"})

        def step_end(self, model: nn.Module, place: Place) -> None:
            raise StopRun("grown enough")

    class Within(Method):
        changes = frozenset({"gradients"})

        def grads_ready(self, model: nn.Module, place: Place) -> None:
            raise StopRun("now")

    result = lehr.train(recipe(methods=(After(),)), run_dir=tmp_path / "after")
    assert (result.stopped, result.step) == ("grown enough", 1)
    with pytest.raises(RunError, match="StopRun in the middle of a step; raise it in step_end"):
        lehr.train(recipe(methods=(Within(),)), run_dir=tmp_path / "within")


def test_a_loop_of_one_s_own_can_ask_for_a_stop(tmp_path: Path) -> None:
    trainer = lehr.Trainer(recipe(), run_dir=tmp_path / "run")
    for batch in trainer.batches():
        if trainer.loop.clock.step == 3:
            trainer.stop("enough")
        trainer.step(batch)
    assert (trainer.loop.clock.step, trainer.loop.stopped) == (4, "enough")
    assert (tmp_path / "run" / "checkpoints" / "step-00000004").is_dir()


class Halve(Method):
    changes = frozenset({"batch", "loss", "gradients", "model"})

    def __init__(self) -> None:
        self.places: list[str] = []

    def batch_ready(self, batch: Batch, place: Place) -> Batch:
        self.places.append(f"batch@{place.step}")
        return batch[0] * 0, batch[1]

    def loss_ready(self, total: Tensor, count: Tensor | float, model: nn.Module, place: Place) -> Tensor:
        self.places.append(f"loss@{place.step}")
        return total + 10.0 * count

    def grads_ready(self, model: nn.Module, place: Place) -> None:
        self.places.append(f"gradients@{place.step}")
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.zero_()

    def step_end(self, model: nn.Module, place: Place) -> None:
        self.places.append(f"model@{place.step}")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(0.5)


def test_a_method_changes_what_it_declares(tmp_path: Path) -> None:
    method = Halve()
    made = recipe(methods=(method,), steps=1, accumulate=2, schedule="constant", evaluate=Evaluate(every=9))
    trainer = lehr.Trainer(made, run_dir=tmp_path / "run")
    result = trainer.fit()
    assert method.places == ["batch@0", "loss@0", "loss@0", "gradients@0", "model@1"]
    assert result.train_loss is not None and 10 < result.train_loss < 13
    assert all(bool((p == 0.5).all()) for p in trainer.model.parameters())


def test_methods_apply_in_list_order(tmp_path: Path) -> None:
    def adding(value: float, factor: float) -> Method:
        class Change(Method):
            changes = frozenset({"loss"})

            def loss_ready(self, total: Tensor, count: Tensor | float, model: nn.Module, place: Place) -> Tensor:
                return total * factor + value * count

        return Change()

    losses = []
    for order in ((adding(4, 1), adding(0, 0)), (adding(0, 0), adding(4, 1))):
        name = f"run{len(losses)}"
        losses.append(
            lehr.train(recipe(methods=order, steps=1, schedule="constant"), run_dir=tmp_path / name).train_loss
        )
    assert losses == [0.0, 4.0]


@pytest.mark.parametrize("name", ["batch_ready", "loss_ready", "grads_ready", "step_end"])
def test_an_undeclared_change_is_refused(name: str) -> None:
    method = type("Sneaky", (Method,), {name: lambda self, *given: None})()
    with pytest.raises(SettingError, match=rf"Sneaky has {name}\(\) but does not declare"):
        Listeners([method])


def test_what_is_no_listener_is_refused() -> None:
    with pytest.raises(SettingError, match="neither a lehr Method nor an Observer"):
        Listeners([object()])


class Average(Method):
    """An average of the weights: state that must survive."""

    changes = frozenset({"model"})

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def step_end(self, model: nn.Module, place: Place) -> None:
        for name, parameter in model.named_parameters():
            self.sums[name] = self.sums.get(name, torch.zeros_like(parameter)) * 0.9 + parameter.detach() * 0.1

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self.sums = dict(state["sums"])


def test_a_listener_s_state_is_saved_with_the_run(tmp_path: Path) -> None:
    whole, part, rest = Average(), Average(), Average()
    lehr.train(recipe(methods=(whole,)), run_dir=tmp_path / "whole")
    trainer = lehr.Trainer(recipe(methods=(part,)), run_dir=tmp_path / "part")
    for batch in trainer.batches():
        trainer.step(batch)
        if trainer.loop.clock.step == 7:
            break
    lehr.resume(tmp_path / "part", recipe=recipe(methods=(rest,)))
    assert_same(whole.sums, rest.sums)


def test_another_list_of_listeners_is_not_given_the_state() -> None:
    listeners = Listeners([Average()])
    with pytest.raises(CheckpointError, match=r"saved with the methods none, but the recipe has \['Average-0'\]"):
        listeners.load_state_dict({})


def test_listeners_that_only_look_change_nothing(tmp_path: Path) -> None:
    plain = lehr.train(recipe(), run_dir=tmp_path / "plain")
    watched = lehr.train(recipe(methods=(Diary(), Diary())), run_dir=tmp_path / "watched")
    assert plain.model is not None and watched.model is not None
    assert_same(weights(plain.model), weights(watched.model))
