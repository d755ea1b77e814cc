"""Schedules in whole runs: written as a text, resumed with their memory, moving the momentum, refused in time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_same, points, recipe, records, run_steps, weights

import lehr
from lehr.base.durations import RunLength
from lehr.base.errors import SettingError
from lehr.base.settings import override
from lehr.data.text import TextData
from lehr.models.gpt import GPTSettings
from lehr.optim import SGD, AdamW
from lehr.recipes import gpt_text
from lehr.run.recipe import Evaluate, Recipe, Track
from lehr.schedules import SCHEDULES, Constant, Cosine, Noam, OneCycle, Plateau, Repeated, Then, Warmup, parse

EACH = Track(every=1)


def rates(run: Path) -> list[float]:
    return [r["lr"] for r in records(run) if r["split"] == "train"]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_trains_by_its_name(tmp_path: Path, name: str) -> None:
    optim = AdamW(lr=1.0 if name == "noam" else 0.01)
    made = recipe(schedule=name, steps=20, track=EACH, evaluate=Evaluate(every=20), optim=optim)
    lehr.train(made, run_dir=tmp_path)
    schedule = SCHEDULES[name].make().resolve(RunLength(20, steps_per_epoch=6))
    assert rates(tmp_path) == pytest.approx([optim.lr * schedule(step) for step in range(20)])


def test_a_text_is_the_schedule_it_says(tmp_path: Path) -> None:
    written = override(recipe(), ["schedule=repeated(warmup(2) then cosine(3, floor=0.1), 3)"])
    cycle = Then(parts=(Warmup(length=2), Cosine(length=3, floor=0.1)))
    assert written.schedule == Repeated(schedule=cycle, times=3)
    lehr.train(override(written, ["track.every=1"]), run_dir=tmp_path)
    first = rates(tmp_path)[:5]
    assert rates(tmp_path) == pytest.approx(first * 3)


def test_an_error_in_a_text_points_at_its_place() -> None:
    with pytest.raises(SettingError, match=r"unknown schedule 'cosin' \(did you mean 'cosine'\?\), in column 16\n"):
        override(recipe(), ["schedule=warmup(5) then cosin(10)"])


def falling() -> Recipe:
    """Return a recipe whose plateau falls at each evaluation after its first, since nothing is enough for it."""
    schedule = Warmup(length=2).then(Plateau(patience=0, factor=0.5, threshold=100, threshold_mode="abs"))
    return recipe(schedule=schedule, evaluate=Evaluate(every=2), track=EACH)


def test_a_plateau_falls_by_the_evaluations_of_a_run(tmp_path: Path) -> None:
    lehr.train(falling(), run_dir=tmp_path)
    # evaluations after 2, 4, 6, ... updates: that after 2 is the warm-up's, that after 4 is the first to compare with
    halves = [0.005, *[0.01] * 5, *(0.01 * 0.5 ** (1 + i // 2) for i in range(9))]
    assert rates(tmp_path) == pytest.approx(halves)


@pytest.mark.parametrize("stop", [3, 7, 11])
def test_a_plateau_remembers_through_a_resume(tmp_path: Path, stop: int) -> None:
    whole = lehr.Trainer(falling(), run_dir=tmp_path / "whole")
    whole.fit()
    run_steps(lehr.Trainer(falling(), run_dir=tmp_path / "part"), stop)
    lehr.resume(tmp_path / "part", recipe=falling())
    assert rates(tmp_path / "part") == rates(tmp_path / "whole")
    checkpoints = [sorted((tmp_path / name / "checkpoints").glob("step-*"))[-1] for name in ("whole", "part")]
    assert len({(c / "model.safetensors").read_bytes() for c in checkpoints}) == 1


def test_cycled_momentum_reaches_the_optimizer(tmp_path: Path) -> None:
    seen: list[float] = []

    class Look(lehr.Observer):
        def step_end(self, place: Any) -> None:
            seen.append(trainer.loop.update.optimizers[0].param_groups[0]["momentum"])

    schedule = OneCycle(cycle_momentum=(0.8, 0.95))
    made = recipe(schedule=schedule, optim=SGD(lr=0.05, momentum=0.9), methods=(Look(),))
    trainer = lehr.Trainer(made, run_dir=tmp_path)
    trainer.fit()
    momentum = schedule.momentum(RunLength(15))
    assert momentum is not None
    assert seen == pytest.approx([momentum(step) for step in range(15)])
    assert min(seen) < 0.81 and max(seen) == pytest.approx(0.95)


def test_a_product_with_one_is_the_same_run(tmp_path: Path) -> None:
    found = []
    for name, schedule in {"alone": Cosine(), "times": "cosine times constant"}.items():
        trainer = lehr.Trainer(recipe(schedule=schedule), run_dir=tmp_path / name)
        trainer.fit()
        found.append(weights(trainer.assembly.model))
    assert_same(*found)


def test_tokens_are_counted_by_the_data(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("all work and no play makes a dull model. " * 100)
    made = gpt_text.recipe().model_copy(
        update={
            "model": GPTSettings(width=8, depth=1, heads=2),
            "data": TextData(path=text, context=16, batch_size=4),
            "schedule": parse("warmup(256 tokens) then constant"),
            "steps": 6,
            "track": EACH,
            "optim": AdamW(lr=0.01),
            "device": "cpu",
        }
    )
    lehr.train(made, run_dir=tmp_path / "run")
    assert rates(tmp_path / "run") == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])  # 64 tokens an update


WITHOUT = lehr.Data(train=points(), batch_size=8)
REFUSED: dict[str, tuple[Callable[[], Recipe], str]] = {
    "rates times a rate": (lambda: recipe(schedule=Noam(warmup=2)), r"base rate is 0.01; set optim.lr=1, or use"),
    "a plateau without validation data": (lambda: recipe(schedule="plateau", data=WITHOUT), r"give Data\(val=\.\.\.\)"),
    "a plateau inside, without it": (
        lambda: recipe(schedule="warmup(3) then plateau", data=WITHOUT),
        r"give Data\(val=\.\.\.\)",
    ),
    "a plateau by what is not measured": (
        lambda: recipe(schedule=Plateau(monitor="f1")),
        "schedule.monitor='f1' is not measured",
    ),
    "momentum for an optimizer that has none": (
        lambda: recipe(schedule=OneCycle(cycle_momentum=(0.8, 0.9)), optim=Adagrad()),
        "cycles the momentum.* Adagrad has none; use cycle_momentum=none",
    ),
    "tokens of samples that have none": (
        lambda: recipe(schedule=Constant(warmup="1k tokens")),
        "does not tell how many tokens a sample has; give steps",
    ),
    "parts longer than the run": (lambda: recipe(schedule="warmup(10) then cosine(10)"), r"last 10 \+ 10 steps"),
}


class Adagrad:
    def build(self, model: Any) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adagrad(model.parameters())]


@pytest.mark.parametrize("name", REFUSED)
def test_what_this_run_cannot_have_is_refused_before_it_begins(tmp_path: Path, name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(SettingError, match=message):
        lehr.Trainer(make(), run_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
