"""Schedules as a run has them: rates and momentum at each step, a plateau that goes by evaluations, and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_same, exact, points, recipe, weights

import lehr
from lehr.base.errors import SettingError
from lehr.base.settings import override
from lehr.optim import SGD, Adagrad, AdamW
from lehr.run.recipe import Evaluate, Recipe, Save, Track
from lehr.schedules import OneCycle, Plateau


def steps_of(made: Recipe) -> list[tuple[float, Any]]:
    """Return the rate and the momentum that each update was made with."""
    trainer = lehr.Trainer(made)
    seen = []
    for batch in trainer.batches():
        trainer.step(batch)
        group = trainer.loop.update.optimizers[0].param_groups[0]
        seen.append((group["lr"], group.get("momentum", group.get("betas"))))
    return seen


def test_one_cycle_is_torchs_in_a_run() -> None:
    schedule = OneCycle(cycle_momentum=(0.85, 0.95))
    seen = steps_of(recipe(optim=SGD(lr=0.1, momentum=0.9), schedule=schedule, steps=20))
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20)
    for step, (rate, momentum) in enumerate(seen):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"]), step
        assert momentum == pytest.approx(optimizer.param_groups[0]["momentum"]), step
        optimizer.step()
        if step < 19:
            scheduler.step()


def test_first_beta_is_the_momentum_of_adam() -> None:
    seen = steps_of(recipe(optim=AdamW(betas=(0.9, 0.99)), schedule=OneCycle(cycle_momentum=(0.8, 0.9)), steps=10))
    assert seen[0][1] == (0.9, 0.99)
    assert min(betas[0] for _, betas in seen) == pytest.approx(0.8)
    with pytest.raises(SettingError, match="Adagrad has none; use cycle_momentum=none"):
        lehr.Trainer(recipe(optim=Adagrad(), schedule=OneCycle(cycle_momentum=(0.8, 0.9))))


def test_cycled_momentum_is_no_state_that_a_resume_brings_back(tmp_path: Path) -> None:
    made = recipe(optim=SGD(lr=0.1, momentum=0.9), schedule=OneCycle(cycle_momentum=(0.85, 0.95)), steps=10)
    lehr.train(made, run_dir=tmp_path / "run")
    changed = made.model_copy(update={"schedule": OneCycle(), "steps": 12})
    result = lehr.resume(tmp_path / "run", recipe=changed, allow_changes=True)
    assert result.step == 12
    trainer = lehr.Trainer(changed)
    assert trainer.loop.update.optimizers[0].param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize("text", ["plateau(patience=0, factor=0.5)", "warmup(3) then plateau(patience=0, factor=0.5)"])
def test_a_plateau_survives_an_interruption(tmp_path: Path, text: str) -> None:
    """Labels that mean nothing: the validation loss does not fall for long, so the rate does."""
    x, _ = points(48)
    nonsense = torch.randint(0, 3, (48,), generator=torch.Generator().manual_seed(5))
    made = recipe(
        data=lehr.Data(train=(x, nonsense), val=points(20, seed=1), batch_size=8),
        schedule=text,
        optim=AdamW(lr=0.05),
        steps=20,
        evaluate=Evaluate(every=2),
        save=Save(every=1, keep=50),
        track=Track(every=1),
    )
    whole = lehr.train(made, run_dir=tmp_path / "whole")
    rates = [r["lr"] for r in exact(tmp_path / "whole") if r["split"] == "train"]
    assert rates[-1] < rates[4] / 2, "the rate has fallen"
    trainer = lehr.Trainer(made, run_dir=tmp_path / "cut")
    for batch in trainer.batches():
        trainer.step(batch)
        if trainer.loop.clock.step == 11:
            trainer.stop("for now")
    resumed = lehr.resume(tmp_path / "cut", recipe=made)
    assert whole.model is not None and resumed.model is not None
    assert_same(weights(whole.model), weights(resumed.model))
    assert exact(tmp_path / "whole") == exact(tmp_path / "cut")


def test_a_plateau_that_cannot_work_is_refused() -> None:
    with pytest.raises(SettingError, match="schedule.monitor='acuracy' is not measured; known: loss, accuracy"):
        lehr.Trainer(recipe(schedule=Plateau(monitor="acuracy")))
    with pytest.raises(SettingError, match="a plateau goes by validations"):
        lehr.Trainer(recipe(schedule="plateau", data=lehr.Data(train=points(), batch_size=8)))


def test_a_schedule_is_also_written_as_a_text(tmp_path: Path) -> None:
    made = override(recipe(), ["schedule=warmup(3) then cosine(floor=0.1)"])
    rates = [rate for rate, _ in steps_of(made)]
    assert rates[:3] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01])
    assert rates[-1] > 0.001
    assert override(made, ["schedule=cosine"]).schedule != made.schedule
    with pytest.raises(SettingError, match="unknown schedule 'cosin' .did you mean 'cosine'"):
        override(made, ["schedule=cosin"])


def test_absolute_rates_need_a_base_of_one() -> None:
    rates = [rate for rate, _ in steps_of(recipe(optim=AdamW(lr=1.0), schedule="noam(d_model=512, warmup=4)", steps=6))]
    assert rates == pytest.approx([512**-0.5 * min((s + 1) ** -0.5, (s + 1) * 4**-1.5) for s in range(6)])
    with pytest.raises(SettingError, match="the base rate is 0.01; set optim.lr=1, or use inverse_sqrt"):
        lehr.Trainer(recipe(schedule="noam(d_model=512, warmup=4)"))
