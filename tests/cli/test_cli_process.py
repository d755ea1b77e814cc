"""What holds for the process: standard output, exit codes, signals, and how soon it starts."""

from __future__ import annotations

import math
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import HEAD, RECIPE, end, lehr, start, wait_for

from lehr.cli.output import print_json
from lehr.recipes.table import RECIPES

KEYS = {
    "run",
    "step",
    "train_loss",
    "val_loss",
    "best_val_loss",
    "metrics",
    "stopped",
    "train_seconds",
    "wall_seconds",
    "samples_per_second",
    "tokens_per_second",
}


@pytest.mark.slow
def test_the_life_of_a_run_as_a_script_sees_it(tmp_path: Path) -> None:
    began = time.monotonic()
    process = start(
        "train", "digits", "--run", "run", "--json", "--set", "track.every=1", "--set", "epochs=1", cwd=tmp_path
    )
    wait_for(tmp_path / "run" / "metrics.jsonl", process)
    first_step = time.monotonic() - began
    trained = end(process)
    assert trained.code == 0
    assert trained.json.keys() >= KEYS
    assert (trained.json["run"], trained.json["step"], trained.json["stopped"]) == ("run", 23, "finished")
    assert trained.json["tokens_per_second"] is None and trained.json["samples_per_second"] > 0
    assert 0 < trained.json["train_seconds"] < trained.json["wall_seconds"]
    assert trained.err.startswith("step 1/23  loss ")
    assert first_step < 12
    resumed = end(start("resume", "run", "--json", "--set", "epochs=2", cwd=tmp_path))
    assert resumed.code == 0
    assert resumed.json["step"] == 46
    assert resumed.json.keys() >= KEYS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_preempts_a_run_and_resume_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "mine.py").write_text(HEAD + "import time\n" + RECIPE)
    process = start("train", "mine.py", "--run", "run", "--json", "--set", "steps=100000", cwd=tmp_path)
    wait_for(tmp_path / "run" / "metrics.jsonl", process)
    process.send_signal(number)
    done = end(process)
    assert (done.code, done.json["stopped"]) == (75, "preempted")
    assert done.json.keys() >= KEYS
    assert "Traceback" not in done.err
    asked = done.json["step"] + 10
    resumed = lehr("resume", tmp_path / "run", "--json", "--set", f"steps={asked}")
    assert (resumed.code, resumed.json["stopped"], resumed.json["step"]) == (0, "finished", asked)


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    code = """
import pathlib, time
class Net(Net):
    def forward(self, x):
        if torch.is_grad_enabled() and pathlib.Path("run").exists():
            pathlib.Path("begun").write_text("yes")
            time.sleep(100)
        return super().forward(x)
"""
    (tmp_path / "mine.py").write_text(HEAD + code + RECIPE)
    process = start("train", "mine.py", "--run", "run", cwd=tmp_path)
    wait_for(tmp_path / "begun", process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None, "the first asks; the step in hand is finished"
    process.send_signal(signal.SIGINT)
    done = end(process)
    assert done.code == -signal.SIGINT
    assert "Traceback" not in done.err


def test_ctrl_c_outside_a_run_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import pathlib, time\npathlib.Path('begun').write_text('yes')\ntime.sleep(100)\n"
    )
    process = start("train", "mine.py", "--run", "run", "--json", cwd=tmp_path)
    wait_for(tmp_path / "begun", process)
    process.send_signal(signal.SIGINT)
    done = end(process)
    assert done.code == done.json["exit_code"] == 130
    assert done.err == "error: interrupted before there was anything to save\n"
    assert not (tmp_path / "run").exists()


def test_help_comes_soon_and_without_torch() -> None:
    code = (
        "import sys, time; began = time.perf_counter(); sys.argv = ['lehr', *{verb}, '--help']\n"
        "from lehr.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        "print(time.perf_counter() - began, 'torch' in sys.modules, file=sys.stderr)"
    )
    for verb in ([], ["train"], ["resume"], ["eval"], ["sample"], ["report"], ["schedule"], ["list"]):
        taken = []
        for _ in range(3 if not verb else 1):
            done = subprocess.run(
                [sys.executable, "-c", code.format(verb=verb)], capture_output=True, text=True, check=True
            )
            seconds, torch = done.stderr.split()
            assert torch == "False", f"{verb}: torch was imported"
            assert "Usage" in done.stdout and "--help" in done.stdout
            taken.append(float(seconds))
        assert min(taken) < 0.8


def test_the_command_is_installed() -> None:
    command = shutil.which("lehr", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("lehr is not installed, only importable")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.count(".") == 2


def test_lists_are_one_object(tmp_path: Path) -> None:
    everything = lehr("list", "--json").json
    assert list(everything) == ["recipes", "optimizers", "schedules", "methods", "metrics", "losses", "levers"]
    assert list(everything["recipes"]) == list(RECIPES)
    assert list(lehr("list", "schedules", "--json").json) == ["schedules"]
    for kind, rows in everything.items():
        for name, summary in rows.items():
            assert re.search(rf"^  {name} +{re.escape(summary)}", lehr("list", kind).out, re.MULTILINE)


def test_json_has_null_where_a_number_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"loss": math.nan, "metrics": {"a": math.inf, "b": [1.0, -math.inf]}, "text": "é"})
    assert capsys.readouterr().out == '{"loss": null, "metrics": {"a": null, "b": [1.0, null]}, "text": "é"}\n'
