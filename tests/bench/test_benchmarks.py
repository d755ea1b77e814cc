"""What the benchmarks print: a table for people, and one line of JSON of a fixed form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("common", "plain_gpt"))
KEYS = {"what", "measured", "reference", "target", "met", "spread"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_says_what_it_does_and_has_the_same_options(script: str) -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / f"{script}.py", "--help"], capture_output=True, text=True, check=True
    )
    assert all(option in done.stdout for option in ("--json", "--quick", "--record"))


@pytest.mark.slow
def test_the_overhead_is_measured_in_pairs_and_printed_for_people_and_machines() -> None:
    command = [sys.executable, FOLDER / "overhead.py", "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *table, last = done.stdout.splitlines()
    rows = json.loads(last)["rows"]
    assert all(row.keys() == KEYS for row in rows)
    assert len(table) == len(rows) + 1
    ratios = {row["what"]: row["measured"] for row in rows if "/" in row["what"]}
    assert set(ratios) >= {
        f"width {w}: lehr eager / {other} loop" for w in (64, 256) for other in ("idiomatic", "fast")
    }
    assert all(0.1 < ratio < 3 for ratio in ratios.values())  # what it is belongs into a record, not into a test


def test_records_hold_what_is_needed_to_repeat_them() -> None:
    for file in (FOLDER / "records").glob("*/record.json"):
        record = json.loads(file.read_text())
        assert record.keys() >= {"command", "date", "python", "torch", "processor", "rows"}, file
        assert all(row.keys() == KEYS for row in record["rows"]), file
