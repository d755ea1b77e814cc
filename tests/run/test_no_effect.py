"""Nothing that is given is silently ignored."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import points, recipe

import lehr
from lehr.base.errors import NoEffectWarning, SettingError

ALONE = lehr.Data(train=points(), batch_size=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop": lehr.Stop(min_delta=0.1)}, "stop.min_delta has no effect: nothing stops early without stop.patience"),
        ({"stop": lehr.Stop(min_steps=3)}, "stop.min_steps has no effect"),
        ({"weights_allow": ("head.*",)}, "weights_allow has no effect: no weights are loaded"),
        ({"data": lehr.Data(train=points(), batch_size=8, replay=True)}, "data.replay has no effect: the data is no"),
        (
            {"data": ALONE, "evaluate": lehr.Evaluate(batches=2, monitor="accuracy")},
            "evaluate.batches, evaluate.monitor have no effect: there is no validation data",
        ),
    ],
)
def test_a_setting_without_a_use_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.warns(NoEffectWarning, match=message) as caught:
        lehr.Trainer(recipe(**changes), run_dir=tmp_path / "run")
    assert len(caught) == 1


@pytest.mark.parametrize("name", ["evaluate", "save", "track"])
def test_an_interval_of_nothing_is_refused(tmp_path: Path, name: str) -> None:
    kind = {"evaluate": lehr.Evaluate, "save": lehr.Save, "track": lehr.Track}[name]
    with pytest.raises(SettingError, match=rf"{name}.every=0 steps is never and always"):
        lehr.Trainer(recipe(**{name: kind(every=0)}), run_dir=tmp_path / "run")


def test_a_model_of_a_session_without_a_file_trains(tmp_path: Path) -> None:
    code = (
        "import lehr, torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self): super().__init__(4, 3)\n"
        "def loss(output, target): return torch.nn.functional.cross_entropy(output, target)\n"
        "data = lehr.Data(train=(torch.randn(16, 4), torch.arange(16) % 3), batch_size=4)\n"
        "recipe = lehr.Recipe(model=Net, data=data, objective=loss, epochs=1)\n"
        "print(lehr.train(recipe, run_dir='run').step)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "4", done.stderr
