"""What the built-in recipes reach, and in which time: whole commands, on data that every machine has.

gpt-text is compared with what general compressors need for the same validation bytes.

    python benchmarks/recipes.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

LEHR = [sys.executable, "-m", "lehr"]


def lehr(*words: str, cwd: Path | None = None) -> dict[str, Any]:
    """Return what a command prints with ``--json``."""
    done = subprocess.run(
        [*LEHR, *words, "--json"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=cwd
    )
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def trained(name: str, run: Path, *more: str, cwd: Path | None = None) -> tuple[dict[str, Any], float]:
    start = time.perf_counter()
    result = lehr("train", name, "--run", str(run), *more, cwd=cwd)
    return result, time.perf_counter() - start


def gpt_text(folder: Path, shorten: list[str]) -> list[common.Row]:
    result, seconds = trained("gpt-text", folder / "gpt", *shorten)
    bits, needed = result["metrics"]["bits_per_byte"], result["compressors"]
    target = None if shorten else needed["gzip"]
    rows = [
        common.Row(
            what="gpt-text: bits per byte, and gzip -9",
            measured=bits,
            reference=needed["gzip"],
            target=target,
            met=None if target is None else bits < target,
        ),
        common.Row(what="gpt-text: bits per byte, and xz -9", measured=bits, reference=needed["xz"]),
        common.Row(
            what="gpt-text: bits per byte, and xz -9 after the training text",
            measured=bits,
            reference=needed["xz_after_training_text"],
        ),
    ]
    return [*rows, *times("gpt-text", result, seconds, target=None if shorten else 90.0)]


def digits(folder: Path, shorten: list[str]) -> list[common.Row]:
    result, seconds = trained("digits", folder / "digits", *shorten)
    accuracy = result["metrics"]["accuracy"]
    met = None if shorten else accuracy >= 0.98
    row = common.Row(what="digits: validation accuracy", measured=accuracy, target=0.98, met=met)
    return [row, *times("digits", result, seconds, target=60.0)]


def translate(folder: Path, shorten: list[str]) -> list[common.Row]:
    result, seconds = trained("translate", folder / "translate", *shorten)
    rows = []
    for split in ("val", "train"):
        exact = lehr("eval", str(folder / "translate"), "--split", split, "--checkpoint", "last")["metrics"]
        rows.append(common.Row(what=f"translate: exact matches, {split}", measured=exact["exact_match"]))
    return [*rows, *times("translate", result, seconds)]


def times(name: str, result: dict[str, Any], seconds: float, target: float | None = None) -> list[common.Row]:
    trained_in = result["train_seconds"]
    met = None if target is None else trained_in <= target
    return [
        common.Row(what=f"{name}: training, s", measured=trained_in, target=target, met=met),
        common.Row(what=f"{name}: the whole command, s", measured=seconds),
    ]


def main() -> None:
    options = common.parser(__doc__.splitlines()[0]).parse_args()
    shorten = ["--set", "steps=20"] if options.quick else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common.finish([row for part in (gpt_text, digits, translate) for row in part(folder, shorten)], options)


if __name__ == "__main__":
    main()
