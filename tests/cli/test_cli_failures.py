"""A run that fails: exit code 3, the user's own frames and one sentence, evidence in the run folder, nothing lost."""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import HEAD, RECIPE, Done, lehr
from safetensors.torch import load_file

RAISING = {
    "forward": (
        """
class Net(Net):
    calls = 0
    def forward(self, x):
        Net.calls += self.training
        if Net.calls > 7:
            raise ValueError("boom")
        return super().forward(x)
"""
        + RECIPE,
        "ValueError: boom",
        'raise ValueError("boom")',
    ),
    "item": (
        """
class Samples:
    reads = 0
    def __len__(self): return 40
    def __getitem__(self, i):
        Samples.reads += 1
        return (X[i], Y[i]) if Samples.reads < 50 else {}["gone"]
"""
        + RECIPE.replace("train=(X, Y)", "train=Samples()"),
        "could not be read: KeyError: 'gone'",
        '{}["gone"]',
    ),
    "observer": (
        """
class Nosy(Observer):
    def step_end(self, place):
        if place.step == 5:
            raise OSError("no such luck")
"""
        + RECIPE.replace("steps=12", "steps=12, methods=(Nosy(),)"),
        "OSError: no such luck",
        'raise OSError("no such luck")',
    ),
    "schedule": (
        "def factor(step): return 1 / abs(step - 5)\n" + RECIPE.replace("steps=12", "steps=12, schedule=factor"),
        "ZeroDivisionError: division by zero",
        "1 / abs(step - 5)",
    ),
    "evaluation": (
        """
def loss(output, target):
    if not torch.is_grad_enabled() and len(target) > 8:
        raise RuntimeError("too many")
    return F.cross_entropy(output, target)
"""
        + RECIPE.replace("nn.CrossEntropyLoss()", "loss").replace("batch_size=8", "batch_size=8, val_batch_size=40"),
        "RuntimeError: too many",
        'raise RuntimeError("too many")',
    ),
}


def failed(tmp_path: Path, code: str, *options: str) -> tuple[Done, Path]:
    file, run = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(HEAD + code)
    done = lehr("train", file, "--run", run, "--json", *options)
    assert done.code == done.json["exit_code"] == 3, done
    assert f"what is known about it is in {run}/failure.json" in done.json["notes"]
    assert f"what is known about it is in {run}/failure.json" in done.err
    return done, run


@pytest.mark.parametrize("case", RAISING)
def test_what_the_users_code_raises_is_shown_without_the_frames_of_others(tmp_path: Path, case: str) -> None:
    code, message, line = RAISING[case]
    done, run = failed(tmp_path, code)
    assert message in done.json["error"]
    assert json.loads((run / "failure.json").read_text())["message"] in done.json["error"]
    places = [text for text in done.err.splitlines() if text.startswith('  File "')]
    assert places and all(f'"{tmp_path}/mine.py"' in place for place in places), done.err
    assert line in done.err
    assert done.err.count("\n") < 15
    assert not (run / "result.json").exists()


def test_what_a_worker_process_raises_is_as_short(tmp_path: Path) -> None:
    done, _ = failed(tmp_path, RAISING["item"][0], "--set", "data.workers=1")
    assert done.json["error"].endswith("could not be read: KeyError: 'gone'")
    assert done.json["notes"][0].startswith(f'raised in "{tmp_path}/mine.py", line ')
    assert done.err.count("\n") < 8


def test_a_mistake_of_lehr_itself_is_shown_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lehr.training import loop

    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    broken.__code__ = broken.__code__.replace(co_filename=loop.__file__)
    monkeypatch.setattr(loop.Loop, "applied", broken)
    done, _ = failed(tmp_path, RECIPE)
    assert "loop.py" in done.err and "trainer.py" in done.err


def test_bad_labels_deep_in_the_data_are_named_and_fail_the_run(tmp_path: Path) -> None:
    code = "Y[33] = 7\n" + RECIPE.replace("batch_size=8", "batch_size=8, shuffle=False")
    done, run = failed(tmp_path, code.replace("val=(X, Y), ", "").replace('evaluate={"every": 4},', ""))
    assert done.json["error"] == "labels must be 0 to 2, since the model gives 3 scores; found 7 in samples 33"
    assert json.loads((run / "failure.json").read_text())["step"] == 4
    assert "Traceback" not in done.err


def test_a_loss_that_is_not_finite_ends_the_run_before_the_weights_are_touched(tmp_path: Path) -> None:
    code = """
class Net(Net):
    def __init__(self):
        super().__init__()
        self.middle = nn.Identity()
    def forward(self, x):
        return self.head(torch.log(self.middle(torch.relu(self.body(x)) + 1) + self.bad(x)))
    def bad(self, x):
        return torch.where(x.sum(dim=1, keepdim=True) > 1e5, torch.nan, 0.0)
X[33] = 1e5
"""
    code += RECIPE.replace("batch_size=8", "batch_size=8, shuffle=False").replace("val=(X, Y), ", "")
    done, run = failed(tmp_path, code.replace('evaluate={"every": 4},', ""), "--set", "clip=none")
    assert "the loss is nan at step 4: it first appeared in the output of module 'head', samples 33" in done.err
    evidence = json.loads((run / "failure.json").read_text())
    assert (evidence["step"], evidence["where"], evidence["samples"]) == (4, "head", [33])
    kept = load_file(run / "checkpoints" / "step-00000004" / "model.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept.values())
    again = lehr("resume", run, "--json")
    assert again.code == 3 and "samples 33" in again.json["error"]
    on = lehr("resume", run, "--json", "--set", "nonfinite=skip")
    assert on.code == 0 and on.json["skipped"] > 0
    assert not (run / "failure.json").exists(), "what was overcome is no evidence of a failure"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_said_and_costs_no_checkpoint(tmp_path: Path, small_disk: Path) -> None:
    code = """
import contextlib, pathlib
class Neighbour(Observer):
    def step_end(self, place):
        if place.step == 6 and not pathlib.Path("DISK-was-full").exists():
            pathlib.Path("DISK-was-full").touch()
            with open("DISK/neighbour", "wb", buffering=0) as file:
                with contextlib.suppress(OSError):
                    file.write(bytes(10**6))
""".replace("DISK", str(small_disk))
    (tmp_path / "mine.py").write_text(HEAD + code + RECIPE.replace("steps=12", "steps=12, methods=(Neighbour(),)"))
    run = small_disk / "run"
    done = lehr("train", tmp_path / "mine.py", "--run", run, "--json")
    assert done.code == 3
    assert "the checkpoint of step 8 could not be written" in done.json["error"]
    assert "No space left on device" in done.err and "step-00000004 is intact" in done.err
    (small_disk / "neighbour").unlink()
    again = lehr("resume", run, "--json")
    assert again.code == 0, again
    assert (again.json["step"], again.json["stopped"]) == (12, "finished")
    assert "No space left on device; once there is room, `lehr report" in again.err, (
        "the report is larger than the disk"
    )


def test_a_save_that_fails_is_said_and_costs_no_checkpoint(tmp_path: Path) -> None:
    code = """
import resource
class Limit(Observer):
    def step_end(self, place):
        if place.step == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1200, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
"""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        code += RECIPE.replace("steps=12", "steps=12, methods=(Limit(),)").replace('"every": 1}', '"every": 6}')
        (tmp_path / "mine.py").write_text(HEAD + code)
        done = lehr("train", tmp_path / "mine.py", "--run", tmp_path / "run", "--json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.code == 3
    assert "the checkpoint of step 8 could not be written" in done.json["error"]
    assert "File too large" in done.err and "step-00000004 is intact" in done.err
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text().replace("== 6", "== 60"))
    again = lehr("resume", tmp_path / "run", "--json", "--allow-changes")
    assert (again.code, again.json["step"]) == (0, 12)
