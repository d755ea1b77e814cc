"""One thread per process, nothing left behind, and names for what is skipped."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background jobs have it so, and hand it on
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves handlers, threads per process, default types or global generators changed."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    threads, kind, directory = torch.get_num_threads(), torch.get_default_dtype(), Path.cwd()
    environment = dict(os.environ)
    yield
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            assert signal.getsignal(number) is handler, f"a handler for {number} was left behind"
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == kind
    assert Path.cwd() == directory
    changed = {k for k in os.environ.keys() | environment.keys() if os.environ.get(k) != environment.get(k)}
    changed = {name for name in changed if not name.startswith(("PYTEST_", "TORCH", "_TORCH", "KMP_"))}
    assert not changed, f"environment variables were left changed: {changed}"


@pytest.fixture
def global_draws() -> Iterator[object]:
    """Return a function that draws one number from each global generator."""

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield draw
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the time of each folder of tests."""
    seconds: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration") and hasattr(report, "nodeid"):
                folder = report.nodeid.partition("::")[0].rpartition("/")[0]
                seconds[folder] = seconds.get(folder, 0.0) + report.duration
    if sum(seconds.values()) > 5:
        terminalreporter.section("seconds per folder")
        for folder, taken in sorted(seconds.items(), key=lambda item: -item[1]):
            terminalreporter.write_line(f"{taken:8.1f}  {folder}")
