"""How long one waits: for the help of the command line, and for the first step of a run.

The first step is the first line of metrics.jsonl with a record after each step; the clock starts before the process.

    python benchmarks/start.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

LEHR = [sys.executable, "-m", "lehr"]


def help_seconds() -> float:
    return common.timed(lambda: subprocess.run([*LEHR, "--help"], check=True, stdout=subprocess.DEVNULL))


def first_step_seconds(recipe: str) -> float:
    """Start a run, wait for its first record, and end it."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "run" / "metrics.jsonl"
        start = time.perf_counter()
        command = [*LEHR, "train", recipe, "--run", str(metrics.parent), "--set", "track.every=1"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
        while not (metrics.is_file() and metrics.stat().st_size):
            assert process.poll() is None, "the run ended before its first record"
            time.sleep(0.005)
        seconds = time.perf_counter() - start
        process.kill()
        process.wait()
    return seconds


def main() -> None:
    options = common.parser(__doc__.splitlines()[0]).parse_args()
    repeats = 3 if options.quick else 9
    rows = []
    for what, target, measure in (
        ("lehr --help, s", 0.4, help_seconds),
        ("lehr train digits: first step, s", 6.0, lambda: first_step_seconds("digits")),
        ("lehr train gpt-text: first step, s", None, lambda: first_step_seconds("gpt-text")),
    ):
        measure()  # files come into the system's cache
        taken = [measure() for _ in range(repeats)]
        middle = statistics.median(taken)
        rows.append(
            common.Row(
                what=what,
                measured=middle,
                target=target,
                met=None if target is None else middle <= target,
                spread=(min(taken), max(taken)),
            )
        )
    common.finish(rows, options)


if __name__ == "__main__":
    main()
