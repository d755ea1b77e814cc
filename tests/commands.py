"""The command line for tests: in this process, which is quick, or in one of its own; and recipes to give it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from lehr.cli.main import main

HEAD = """
import torch, lehr
from torch import nn
import torch.nn.functional as F
from lehr.base.protocols import Observer

generator = torch.Generator().manual_seed(0)
X = torch.randn(40, 4, generator=generator)
Y = torch.randint(0, 3, (40,), generator=generator)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 32), nn.Linear(32, 3)
    def forward(self, x):
        return self.head(torch.relu(self.body(x)))
"""
RECIPE = """
def recipe():
    return lehr.Recipe(
        model=Net,
        data=lehr.Data(train=(X, Y), val=(X, Y), batch_size=8),
        objective=nn.CrossEntropyLoss(),
        steps=12,
        track={"every": 1},
        save={"every": 4},
        evaluate={"every": 4},
    )
"""


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on standard output, in strict JSON, with nothing else there."""
        assert self.out.count("\n") == 1 and self.out.endswith("\n"), self.out

        def refuse(constant: str) -> NoReturn:
            raise AssertionError(f"{constant} is not JSON")

        content: dict[str, Any] = json.loads(self.out, parse_constant=refuse)
        return content


def lehr(*args: str | Path) -> Done:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(sys, "argv", ["lehr", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def start(*args: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """Start a command in a process of its own."""
    command = [sys.executable, "-m", "lehr", *map(str, args)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(process: subprocess.Popen[str]) -> Done:
    """Wait for a command."""
    out, err = process.communicate(timeout=120)
    return Done(process.returncode, out, err)


def wait_for(file: Path, process: subprocess.Popen[str], seconds: float = 60) -> float:
    """Wait until ``file`` has something in it; returns how long that took."""
    began = time.monotonic()
    while not (file.exists() and file.stat().st_size):
        if process.poll() is not None or time.monotonic() - began > seconds:
            process.kill()
            raise AssertionError(f"{file.name} did not come: {process.communicate()}")
        time.sleep(0.01)
    return time.monotonic() - began


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return everything below ``folder``: folders too, files with their content."""
    found = sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {str(path): path.read_bytes() if path.is_file() else None for path in found}


@contextlib.contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Fail if anything below ``folder`` is written, changed or lost within the block."""
    before = snapshot(folder)
    yield
    after = snapshot(folder)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == []
