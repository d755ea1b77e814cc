"""Every optimizer in a whole run: interrupted and resumed, with rules and a schedule, its files are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import OF_SMALL_MODELS, exact, points, recipe, run_steps, same_files

import lehr
from lehr.optim import OPTIMIZERS, Rule, ScheduleFreeAdamW
from lehr.schedules import Constant

AVAILABLE = [row for row in OPTIMIZERS.values() if not row.needs]
RULES = (Rule(pattern="first.*", rate=0.5), Rule(pattern="last.bias", frozen=True))


@pytest.mark.parametrize("row", AVAILABLE, ids=lambda row: row.name)
def test_a_resumed_run_is_the_uninterrupted_one(row: Any, tmp_path: Path) -> None:
    optim = row.make(rules=RULES, **OF_SMALL_MODELS.get(row.name, {}))
    given = recipe(optim=optim, evaluate={"every": 5}, save={"every": 5})
    lehr.Trainer(given, run_dir=tmp_path / "whole").fit()
    run_steps(lehr.Trainer(given, run_dir=tmp_path / "part"), 12)  # the last checkpoint is that of step 10
    lehr.resume(tmp_path / "part", recipe=given)
    assert exact(tmp_path / "part") == exact(tmp_path / "whole")
    last = "checkpoints/step-00000015"
    same_files(tmp_path / "part" / last, tmp_path / "whole" / last, ["model.safetensors", "optimizer.safetensors"])


def test_a_schedule_free_run_is_evaluated_at_the_average(tmp_path: Path) -> None:
    given = recipe(optim=ScheduleFreeAdamW(lr=0.05), schedule=Constant(warmup=2))
    trainer = lehr.Trainer(given, run_dir=tmp_path)
    result = trainer.fit()
    (optimizer,) = trainer.assembly.loop.update.optimizers
    model = trainer.model.eval()
    x, y = points(20, seed=1)

    def loss() -> float:
        with torch.no_grad():
            return F.cross_entropy(model(x), y).item()

    at_y = loss()
    with optimizer.put_in():  # type: ignore[attr-defined]
        at_x = loss()
    assert result.val_loss == pytest.approx(at_x) and at_x != pytest.approx(at_y, rel=1e-3)
