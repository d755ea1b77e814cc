"""What the benchmarks share: paired timing, the table for people, the line for machines, and records."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).parent / "records"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured number beside what it is compared with."""

    what: str
    measured: float
    reference: float | None = None
    target: float | None = None
    met: bool | None = None
    spread: tuple[float, float] | None = None


def parser(description: str) -> argparse.ArgumentParser:
    """Return the options that every benchmark has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--json", action="store_true", help="end with one line of JSON")
    options.add_argument("--quick", action="store_true", help="a shorter form for a first look")
    options.add_argument("--record", metavar="NAME", help="store the result below benchmarks/records/")
    return options


def device() -> str:
    """Return where lehr's recipes run by themselves, for plain loops to run there too."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def clock() -> float:
    """Return the time, once the device has done all that it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def alternate(contestants: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run each contestant once per repeat, in turn, so that a drifting machine treats all alike."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for repeat in range(repeats):
        for name in names if repeat % 2 == 0 else reversed(names):
            taken[name].append(contestants[name]())
    return taken


def ratios(taken: Mapping[str, Sequence[float]], name: str, reference: str) -> tuple[float, float, float]:
    """Return the median, the lowest and the highest of the pairwise ratios ``name`` / ``reference``."""
    pairs = [a / b for a, b in zip(taken[name], taken[reference], strict=True)]
    return statistics.median(pairs), min(pairs), max(pairs)


def finish(rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Print the table, and the JSON and the record where they were asked for."""
    width = max(len(row.what) for row in rows)
    print(f"{'what':{width}}  {'measured':>10}  {'reference':>10}  {'target':>8}  {'met':>5}  spread")
    for row in rows:
        shown = [_number(row.measured), _number(row.reference), _number(row.target)]
        met = "" if row.met is None else "yes" if row.met else "MISS"
        spread = f"{row.spread[0]:.4g} to {row.spread[1]:.4g}" if row.spread else ""
        print(f"{row.what:{width}}  {shown[0]:>10}  {shown[1]:>10}  {shown[2]:>8}  {met:>5}  {spread}")
    content = {"rows": [asdict(row) for row in rows]}
    if options.record:
        _store(content, options.record)
    if options.json:
        print(json.dumps(content))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _store(content: Mapping[str, Any], name: str) -> None:
    folder = RECORDS / f"{date.today():%Y-%m-%d}_{name}_{machine().replace(' ', '-').lower()}"
    folder.mkdir(parents=True, exist_ok=True)
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]  # not where they lie
    command = "python " + " ".join(["benchmarks/" + Path(sys.argv[0]).name, *words])
    record = {"command": command, "date": f"{date.today()}", **versions(), **content}
    (folder / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"record: benchmarks/records/{folder.name}/record.json")


def machine() -> str:
    """Return a short name of this processor and its number of cores."""
    name = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            name = line.partition(":")[2].replace("(R)", "").replace("Processor", "").strip()
            break
    return f"{name} {os.cpu_count()} cores"


def versions() -> dict[str, Any]:
    """Return the versions that a timing depends on."""
    from importlib import metadata

    import torch

    found = {"python": platform.python_version(), "torch": torch.__version__, "processor": machine()}
    for package in ("lehr", "lightning", "transformers", "accelerate", "pytorch-ignite"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds that ``call`` takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
