"""Runs and the processes they live in: scripts, sessions, and two that want the same folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import end, start, wait_for
from helpers import exact, records, same_files

import lehr
from lehr.base.errors import SettingError

NET = """
import sys, time, torch, lehr
from pathlib import Path
from torch import nn
from lehr.base.protocols import Observer

generator = torch.Generator().manual_seed(0)
X, Y = torch.randn(40, 4, generator=generator), torch.randint(0, 3, (40,), generator=generator)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.drop, self.head = nn.Linear(4, 16), nn.Dropout(0.2), nn.Linear(16, 3)
    def forward(self, x):
        return self.head(self.drop(torch.relu(self.body(x))))

class Samples(torch.utils.data.Dataset):
    def __len__(self): return 40
    def __getitem__(self, i): return X[i], Y[i]

def loss(output, target):
    return nn.functional.cross_entropy(output, target, reduction="sum"), len(target)

class Slow(Observer):
    def step_end(self, place):
        time.sleep(float(Path("seconds").read_text() or 0))

def recipe():
    return lehr.Recipe(model=Net, data=lehr.Data(train=Samples(), val=(X, Y), batch_size=8, workers=WORKERS),
                       objective=loss, methods=(Slow(),), steps=12, track={"every": 2}, save={"every": 3})
"""
SCRIPT = """
if __name__ == "__main__":
    print(lehr.train(recipe, run_dir=sys.argv[1]).step)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "mine.py").write_text(NET.replace("WORKERS", "0") + SCRIPT)
    (tmp_path / "seconds").write_text("0")
    return tmp_path


def python(*args: str, cwd: Path, stdin: int | None = None) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *args], cwd=cwd, env=environment, stdin=stdin, stdout=-1, stderr=-1, text=True
    )


def kill_after_a_checkpoint(process: subprocess.Popen[str], run: Path) -> None:
    wait_for(run / "checkpoints" / "step-00000003" / "manifest.json", process)
    process.kill()
    process.communicate()


def test_a_script_that_was_killed_is_resumed_by_the_command(here: Path) -> None:
    """In the script its classes are ``__main__.Net``, in the command ``mine.Net``: the same, not a change."""
    lehr.train("mine.py", run_dir="whole")
    (here / "seconds").write_text("0.3")
    process = python("mine.py", "run", cwd=here)
    kill_after_a_checkpoint(process, here / "run")
    (here / "seconds").write_text("0")
    done = end(start("resume", "run", "--json", cwd=here))
    assert done.code == 0, done.err
    assert done.json["step"] == 12
    assert "warning" not in done.err
    assert exact(here / "run") == exact(here / "whole")
    last = "checkpoints/step-00000012"
    same_files(here / "run" / last, here / "whole" / last, ["model.safetensors", "optimizer.safetensors"])


def test_a_recipe_typed_into_a_session(here: Path) -> None:
    typed = NET.replace("WORKERS", "0") + "\ntrainer = lehr.Trainer(recipe(), run_dir='run')\n"
    typed += "for place, batch in enumerate(trainer.batches()):\n    trainer.step(batch)\n    if place == 4: break\n"
    typed += "try:\n    lehr.resume('run')\nexcept lehr.base.errors.SettingError as error:\n    print(error)\n"
    typed += "print(lehr.resume('run', recipe=recipe()).step)\n"
    session = python("-", cwd=here, stdin=subprocess.PIPE)
    out, err = session.communicate(typed, timeout=60)
    message, step = out.splitlines()
    assert message.endswith("resume it there with lehr.resume('run', recipe=...)"), err
    assert step == "12"


def test_two_processes_do_not_write_to_the_same_run(here: Path) -> None:
    (here / "seconds").write_text("0.5")
    first = python("mine.py", "run", cwd=here)
    wait_for(here / "run" / "checkpoints" / "step-00000003" / "manifest.json", first)
    before = (here / "run" / "recipe.json").read_bytes()
    with pytest.raises(SettingError, match=r"another process is writing to .*run; wait for it, or give another folder"):
        lehr.resume(here / "run")
    assert (here / "run" / "recipe.json").read_bytes() == before
    assert not (here / "run" / "failure.json").exists()
    (here / "seconds").write_text("0")
    done = end(first)
    assert (done.code, done.out) == (0, "12\n"), done.err
    steps = [record["step"] for record in records(here / "run") if record["split"] == "train"]
    assert steps == [2, 4, 6, 8, 10, 12]


def test_a_killed_run_is_resumed_at_once_though_its_workers_live_on(here: Path) -> None:
    (here / "mine.py").write_text(NET.replace("WORKERS", "2") + SCRIPT)
    (here / "seconds").write_text("0.5")
    first = python("mine.py", "run", cwd=here)
    wait_for(here / "run" / "checkpoints" / "step-00000003" / "manifest.json", first)
    workers = [int(pid) for pid in Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()]
    for worker in workers:  # as if they were busy, and had not seen yet that they are alone
        os.kill(worker, signal.SIGSTOP)
    try:
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert len(workers) >= 2 and all(Path(f"/proc/{worker}").exists() for worker in workers)
        (here / "seconds").write_text("0")
        began = time.monotonic()
        assert lehr.resume(here / "run").step == 12
        assert time.monotonic() - began < 10
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        first.communicate()
    assert not (here / "run" / "failure.json").exists()


def test_a_stop_that_every_process_of_the_run_is_asked_for(here: Path) -> None:
    """As Slurm and systemd ask, and a terminal with Ctrl-C: the workers read on until the run has saved."""
    (here / "mine.py").write_text(NET.replace("WORKERS", "2"))
    lehr.train("mine.py", run_dir="whole")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        run = here / f"run-{number.name}"
        (here / "seconds").write_text("0.3")
        command = [sys.executable, "-m", "lehr", "train", "mine.py", "--run", str(run)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=-1, stderr=-1, text=True)
        wait_for(run / "checkpoints" / "step-00000003" / "manifest.json", process)
        os.killpg(process.pid, number)
        done = end(process)
        assert done.code == 75, done.err
        (here / "seconds").write_text("0")
        assert lehr.resume(run).step == 12
        assert exact(run) == exact(here / "whole")
        last = "checkpoints/step-00000012"
        same_files(run / last, here / "whole" / last, ["model.safetensors", "optimizer.safetensors"])
