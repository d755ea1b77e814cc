"""What the rates of a recipe will be is what they are when it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import points, recipe, records
from torch import nn

import lehr
from lehr.base.errors import SettingError
from lehr.base.settings import Settings
from lehr.optim import SGD, AdamW, Muon
from lehr.reporting.curve import BY_EVALUATIONS
from lehr.run.plan import planned_curve
from lehr.schedules import Cosine, Noam, OneCycle, Plateau, StepDecay, Warmup, WarmupCosine


@pytest.mark.parametrize(
    "schedule",
    [
        WarmupCosine(warmup="20%"),
        StepDecay(every="1 epoch"),
        Warmup(length=3).then(Cosine()),
        OneCycle(cycle_momentum=(0.85, 0.95)),
        lambda step: 1 / (1 + step),
    ],
    ids=["warmup_cosine", "step", "then", "one_cycle", "function"],
)
def test_the_planned_rates_are_those_of_training(tmp_path: Path, schedule: Any) -> None:
    made = recipe(schedule=schedule, steps=None, epochs=2, track={"every": 1})
    curve = planned_curve(made, "mine")
    lehr.train(made, run_dir=tmp_path / "run")
    trained = [record["lr"] for record in records(tmp_path / "run") if record["split"] == "train"]
    assert curve.steps == len(trained) == 12
    assert [curve.rate_at(step) for step in range(12)] == trained


def test_batch_size_and_momentum_are_those_of_the_run() -> None:
    curve = planned_curve(recipe(optim=SGD(lr=0.5, momentum=0.8)), "mine")
    assert (curve.batch_size, curve.rate, curve.momentum, curve.other) == (8, 0.5, 0.8, None)
    assert curve.boundaries[-1].momentum == 0.8
    adam = planned_curve(recipe(optim=AdamW(lr=0.5, betas=(0.7, 0.9))), "mine")
    assert (adam.momentum, adam.other) == (0.7, "AdamW")
    assert planned_curve(recipe(optim=SGD(lr=0.5, form="guide")), "mine").other is None
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*points()), batch_size=12)
    assert planned_curve(recipe(data=lehr.Data(train=loader)), "mine").batch_size == 12


def test_several_base_rates_are_named() -> None:
    muon = planned_curve(recipe(optim=Muon(lr=0.02, adamw=AdamW(lr=0.003))), "mine")
    assert muon.rate == 0.02
    assert muon.notes == (
        "drawn is the base rate of the first group, MatrixMuon 0.02; the others follow: AdamW 0.003",
    )  # fmt: skip
    layered = planned_curve(recipe(optim=AdamW(lr=0.1, layer_decay=0.5)), "mine")
    assert "the others follow: AdamW 0.05" in layered.notes[0]
    assert planned_curve(recipe(), "mine").notes == ()


def test_a_plateau_says_that_it_has_no_curve_yet() -> None:
    assert planned_curve(recipe(schedule=Plateau()), "mine").notes == (BY_EVALUATIONS,)
    assert planned_curve(recipe(schedule=Warmup(length=3).then(Plateau())), "mine").notes == (BY_EVALUATIONS,)


def test_a_momentum_that_the_optimizer_lacks_is_refused() -> None:
    cycled = OneCycle(cycle_momentum=(0.85, 0.95))
    with pytest.raises(SettingError, match="the schedule cycles the momentum, .*SGD has none"):
        planned_curve(recipe(optim=SGD(lr=0.1, momentum=0.0), schedule=cycled), "mine")


def test_what_training_refuses_is_refused() -> None:
    with pytest.raises(SettingError, match="gives rates, not factors, but the base rate is 0.01"):
        planned_curve(recipe(schedule=Noam(), optim=AdamW(lr=0.01)), "mine")
    with pytest.raises(SettingError, match="a plateau goes by validations"):
        planned_curve(recipe(schedule=Plateau(), data=lehr.Data(train=points(), batch_size=8)), "mine")
    assert planned_curve(recipe(schedule=Noam(), optim=AdamW(lr=1.0)), "mine").rate == 1.0


def test_lazy_models_and_optimizers_of_ones_own_are_planned_too() -> None:
    class Mine(Settings):
        def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
            return [torch.optim.RMSprop(model.parameters(), lr=0.25)]

    curve = planned_curve(recipe(model=lambda: nn.LazyLinear(3), optim=Mine()), "mine")
    assert (curve.rate, curve.momentum, curve.other) == (0.25, 0.0, "RMSprop")


def test_nothing_is_written_and_no_global_draw_changes(tmp_path: Path, global_draws: Any) -> None:
    torch.manual_seed(0)
    first = global_draws()[2]
    torch.manual_seed(0)
    planned_curve(recipe(), "mine")
    assert global_draws()[2] == first
    assert list(tmp_path.iterdir()) == []
