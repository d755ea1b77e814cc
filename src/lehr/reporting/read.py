"""A run folder as the report sees it: plain records and facts; no checkpoint is opened, no recipe imported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lehr.base.errors import SettingError
from lehr.base.protocols import Record
from lehr.track.jsonl import read_records

__all__ = ["RunRecords", "read_run", "read_runs"]


@dataclass(frozen=True, kw_only=True)
class RunRecords:
    """What is known of a run."""

    name: str
    path: Path
    records: list[Record]
    recipe: dict[str, Any]
    environment: dict[str, Any]
    result: dict[str, Any]
    failure: dict[str, Any]
    checkpoints: list[dict[str, Any]]

    def curve(self, split: str, name: str) -> tuple[list[int], list[float | None]]:
        """Return the steps and the values of one number; a value that is not finite is a gap.

        >>> run = RunRecords(name="a", path=Path("a"), records=[{"step": 1, "split": "train", "loss": "nan"}],
        ...                  recipe={}, environment={}, result={}, failure={}, checkpoints=[])
        >>> run.curve("train", "loss")
        ([1], [None])
        """
        rows = [r for r in self.applied(split) if name in r]
        return [r["step"] for r in rows], [None if isinstance(r[name], str) else r[name] for r in rows]

    def applied(self, split: str) -> list[Record]:
        """Return the records of one split, without those of withheld updates, whose loss is none of the curve's."""
        return [r for r in self.records if r["split"] == split and "withheld" not in r]

    def last(self, split: str) -> Record:
        """Return the newest record of one split, or an empty one."""
        return (self.applied(split) or [{}])[-1]

    @property
    def val_metrics(self) -> list[str]:
        """The names of what only validations measure; the loss in other units is in training records too."""
        known = {name for record in self.applied("train") for name in record} | {"step", "split", "loss"}
        return list(dict.fromkeys(name for record in self.applied("val") for name in record if name not in known))


def read_run(path: Path) -> RunRecords:
    """Return what a run folder holds; parts that are not there yet are empty."""
    if not (path / "recipe.json").is_file():
        raise SettingError(f"{path} holds no run (it has no recipe.json); give the folder of a run")
    metrics = path / "metrics.jsonl"
    return RunRecords(
        name=path.resolve().name,
        path=path,
        records=read_records(metrics) if metrics.is_file() else [],
        recipe=_json(path / "recipe.json"),
        environment=_json(path / "environment.json"),
        result=_json(path / "result.json"),
        failure=_json(path / "failure.json"),
        checkpoints=[_json(m) | {"name": m.parent.name} for m in sorted(path.glob("checkpoints/step-*/manifest.json"))],
    )


def read_runs(paths: Sequence[Path]) -> list[RunRecords]:
    """Return what several run folders hold; folders with the same name go by their paths."""
    runs = [read_run(path) for path in paths]
    names = [run.name for run in runs]
    return [replace(run, name=str(run.path)) if names.count(run.name) > 1 else run for run in runs]


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
