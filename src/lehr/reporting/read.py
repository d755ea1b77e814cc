"""A run folder as the report sees it: plain records and facts; no checkpoint is opened, no recipe imported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lehr.base.errors import SettingError
from lehr.base.protocols import Record
from lehr.track.jsonl import read_records

__all__ = ["RunRecords", "read_run"]


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
        rows = [r for r in self.records if r["split"] == split and name in r]
        return [r["step"] for r in rows], [None if isinstance(r[name], str) else r[name] for r in rows]


def read_run(path: Path) -> RunRecords:
    """Return what a run folder holds; parts that are not there yet are empty."""
    if not (path / "recipe.json").is_file():
        raise SettingError(f"{path} holds no run (it has no recipe.json); give the folder of a run")
    metrics = path / "metrics.jsonl"
    return RunRecords(
        name=path.name,
        path=path,
        records=read_records(metrics) if metrics.is_file() else [],
        recipe=_json(path / "recipe.json"),
        environment=_json(path / "environment.json"),
        result=_json(path / "result.json"),
        failure=_json(path / "failure.json"),
        checkpoints=[_json(m) | {"name": m.parent.name} for m in sorted(path.glob("checkpoints/step-*/manifest.json"))],
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
