"""Techniques switched off and on: what each is good for, over several seeds, with equal steps or equal time."""

from __future__ import annotations

import functools
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from commands import lehr as verb
from helpers import Mlp, points, recipe

import lehr
from lehr.base.errors import SettingError
from lehr.data.data import Data
from lehr.losses import Supervised, label_smoothing
from lehr.measurement.ablate import ablate, offered, techniques
from lehr.measurement.intervals import mean_interval
from lehr.optim import SGD
from lehr.run.recipe import Evaluate
from lehr.training.methods import EMA


def silent(line: str) -> None:
    pass


def test_students_interval_is_that_of_the_tables() -> None:
    for values, half in {
        (0.0, 2.0): 12.706 * math.sqrt(2) / math.sqrt(2),
        (1.0, 2.0, 3.0): 4.303 / math.sqrt(3),
    }.items():
        found = mean_interval(values, 0.95)
        assert found.high - found.median == pytest.approx(half, rel=1e-3)
    many = mean_interval([float(i % 7) for i in range(200)], 0.99)
    assert (many.high - many.median) / (many.median - many.low) == pytest.approx(1)
    with pytest.raises(SettingError, match="at least 2"):
        mean_interval([1.0])


def test_what_a_recipe_does_is_found_and_taken_out() -> None:
    made = recipe(methods=(EMA(),), evaluate=Evaluate(every=5, monitor="ema_loss"), clip=1.0)
    found = {technique.name: technique.changed for technique in techniques(made)}
    assert list(found) == ["ema", "schedule", "clip", "weight_decay"]
    assert found["ema"].methods == () and found["ema"].evaluate.monitor == "loss"
    assert found["clip"].clip is None and found["clip"].methods == made.methods
    assert found["weight_decay"].optim.weight_decay == 0
    assert type(found["schedule"].schedule).__name__ == "Constant"
    names = {technique.name for technique in offered(made)}
    assert "gradient_centralization" in names and "ema" not in names


def test_a_technique_that_ruins_a_run_hurts_and_one_that_does_nothing_is_no_evidence() -> None:
    made = recipe(model=lambda: Mlp(dropout=0.0), optim=SGD(lr=0.5, weight_decay=0.0), clip=1e-4, steps=40)
    report = ablate(made, seeds=4, say=silent)
    rows = {row.name: row for row in report.rows}
    assert rows["clip"].verdict == "hurts" and rows["clip"].delta is not None and rows["clip"].delta.high < 0
    assert len(report.losses) == 4 and report.confidence == 0.95
    plain = report.plain()
    assert {"baseline", "rows"} <= plain.keys()
    assert {"name", "delta", "low", "high", "seconds_ratio", "verdict"} <= plain["rows"][0].keys()
    assert "| clip |" in report.markdown("mine")


def test_a_technique_that_is_not_there_can_be_tried_and_one_that_fails_costs_its_row() -> None:
    made = recipe(steps=20)
    report = ablate(made, seeds=2, names=["ema", "cutmix"], say=silent)
    ema, cutmix = report.rows
    assert (ema.on, ema.verdict) == (False, "no evidence") and ema.delta is not None
    assert cutmix.verdict == "failed" and "number of classes" in cutmix.reason


def test_averaged_weights_are_judged_by_themselves_and_smoothing_by_one_yardstick() -> None:
    made = recipe(methods=(EMA(decay=0.5),), steps=20)
    row = ablate(made, seeds=2, names=["ema"], say=silent).rows[0]
    assert row.delta is not None and row.delta.median != 0, "ema_loss against loss, though loss is monitored"
    smoothed = recipe(objective=Supervised(loss=functools.partial(label_smoothing, smoothing=0.3)), steps=60)
    report = ablate(smoothed, seeds=2, names=["label_smoothing"], say=silent)
    delta = report.rows[0].delta
    plain = ablate(recipe(steps=60), seeds=2, names=["clip"], say=silent).losses
    assert delta is not None
    assert statistics.mean(report.losses) + delta.median == pytest.approx(statistics.mean(plain), rel=1e-6)


class Breaks(lehr.Observer):
    """Fails for a reason that is not lehr's."""

    def step_end(self, place: Any) -> None:
        raise RuntimeError("out of memory, say")


def test_a_variant_that_raises_anything_costs_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from lehr.measurement import ablate as module

    broken = module.Technique("broken", False, recipe(methods=(Breaks(),)))
    monkeypatch.setattr(module, "offered", lambda made: [broken])
    rows = ablate(recipe(steps=6), seeds=2, names=["broken", "clip"], say=silent).rows
    assert rows[0].verdict == "failed" and "out of memory, say" in rows[0].reason
    assert rows[1].delta is not None


def test_equal_time_gives_a_dear_technique_fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    from lehr.measurement import ablate as module

    seen: list[int] = []
    real = module.train

    def train(given: Any, **more: Any) -> Any:
        result = real(given, **more)
        dear = any(isinstance(method, EMA) for method in given.methods)
        seen.append(given.steps if dear else -given.steps)
        object.__setattr__(result, "train_seconds", result.step * (2.0 if dear else 1.0))
        return result

    monkeypatch.setattr(module, "train", train)
    report = ablate(recipe(steps=20), seeds=2, names=["ema"], equal="time", say=silent)
    assert seen == [-20, -20, 20, 10, 10], "a pilot, then half as many steps at twice the time each"
    assert report.rows[0].seconds_ratio == pytest.approx(2.0)


def test_bad_input_is_said_before_anything_is_trained() -> None:
    with pytest.raises(SettingError, match="at least 2"):
        ablate(recipe(), seeds=1)
    with pytest.raises(SettingError, match="did you mean 'clip'"):
        ablate(recipe(), names=["clp"])
    with pytest.raises(SettingError, match="no validation data"):
        ablate(recipe(data=Data(train=points(), batch_size=8, val=None)))


def test_the_verb_prints_a_table_and_json(tmp_path: Path) -> None:
    helpers = Path(__file__).parents[1]
    mine = tmp_path / "ablated.py"
    mine.write_text(
        f"import sys\nsys.path.insert(0, {str(helpers)!r})\nfrom helpers import recipe as small\n"
        "def recipe():\n    return small(steps=12)\n"
    )
    table = tmp_path / "table.md"
    arguments = ("ablate", mine, "--seeds", "2", "--try", "clip", "--markdown", table)
    done = verb(*arguments)
    assert done.code == 0, done.err
    assert "clip" in done.out and "confidence" in done.out
    assert table.read_text().startswith("| technique |")
    assert [row["name"] for row in verb(*arguments, "--json").json["rows"]] == ["clip"]
    done = verb("ablate", mine, "--markdown", tmp_path / "absent" / "table.md")
    assert done.code == 2 and "there is no such folder" in done.err
    done = verb("ablate", mine, "--equal", "seconds")
    assert done.code == 2 and "choose from: steps, time" in done.err


def test_it_is_a_function_of_the_library() -> None:
    assert lehr.ablate is ablate
