"""What is said when a run goes on with other data, or to another length."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Mlp, points, recipe, records, run_steps

import lehr
from lehr.base.errors import LehrWarning, SettingError
from lehr.data import content
from lehr.losses import Distilled, cross_entropy
from lehr.run.recipe import Save
from lehr.schedules import WarmupCosine


def test_the_rate_behind_a_change_of_length_is_said(tmp_path: Path) -> None:
    run = tmp_path / "run"
    lehr.train(recipe(), run_dir=run)
    with pytest.warns(LehrWarning, match=r"15 steps and now has 30, .* the rate was 0.000\d+ in step 15 and goes on w"):
        lehr.resume(run, recipe=recipe(steps=30), allow_changes=True)
    assert records(run)[-1]["step"] == 30


@pytest.mark.parametrize("changes", [{"schedule": "constant", "steps": 20}, {"schedule": WarmupCosine(warmup=2)}])
def test_a_schedule_that_stays_is_not_spoken_of(tmp_path: Path, changes: dict[str, Any]) -> None:
    run_steps(lehr.Trainer(recipe(**changes | {"steps": 15}), run_dir=tmp_path / "run"), 7)
    with warnings.catch_warnings(action="error"):
        lehr.resume(tmp_path / "run", recipe=recipe(**changes), allow_changes=True)


@pytest.mark.parametrize("kind", ["tensors", "arrays", "dict of arrays"])
def test_other_tensors_of_the_same_length_are_named(tmp_path: Path, kind: str) -> None:
    def made(seed: int) -> lehr.Recipe:
        x, y = points(seed=seed)
        given = (x, y) if kind == "tensors" else (x.numpy(), y.numpy())
        train = {"x": given[0], "y": given[1]} if kind == "dict of arrays" else given
        return recipe(data=lehr.Data(train=train, batch_size=8), objective=loss, metrics=(), steps=4)

    def loss(model: torch.nn.Module, batch: Any) -> Any:
        x, y = batch.values() if isinstance(batch, dict) else batch
        return torch.nn.functional.cross_entropy(model(x), y, reduction="sum"), len(y)

    run = tmp_path / "run"
    run_steps(lehr.Trainer(made(0), run_dir=run), 2)
    with pytest.raises(SettingError, match=r"data: train_sha256: \w+ then, \w+ now"):
        lehr.resume(run, recipe=made(1))
    assert lehr.resume(run, recipe=made(0)).step == 4


def test_of_much_data_the_ends_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "WHOLE", 100)
    monkeypatch.setattr(content, "END", 16)
    rows = np.zeros((50, 2), dtype=np.float32)
    rows.flags.writeable = False
    known = content.content_facts(train=rows)
    for place, differs in ((0, True), (25, False), (49, True)):
        other = rows.copy()
        other[place] = 1
        assert (content.content_facts(train=torch.from_numpy(other)) != known) == differs
    assert content.content_facts(train=[1, 2], val=np.array(["a"])) == {}


def a_student(teacher_seed: int) -> lehr.Recipe:
    torch.manual_seed(teacher_seed)
    weights = {name: value.clone() for name, value in Mlp().state_dict().items()}

    def teacher() -> torch.nn.Module:
        made = Mlp()
        made.load_state_dict(weights)
        return made

    return recipe(
        objective=Distilled(loss=cross_entropy, teacher=teacher), schedule="constant", steps=6, save=Save(every=2)
    )


def test_another_teacher_is_named(tmp_path: Path) -> None:
    lehr.train(a_student(1), run_dir=tmp_path / "run")
    more = ["steps=8"]
    with pytest.raises(SettingError, match="the teacher has other weights than then"):
        lehr.resume(tmp_path / "run", recipe=a_student(2), overrides=more)
    assert lehr.resume(tmp_path / "run", recipe=a_student(1), overrides=more).step == 8
    more = ["steps=9"]
    assert lehr.resume(tmp_path / "run", recipe=a_student(2), overrides=more, allow_changes=True).step == 9
