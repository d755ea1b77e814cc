"""lehr: training for PyTorch that is fast, exact and hard to lose. Nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lehr.base.errors import StopRun as StopRun
    from lehr.base.protocols import Method as Method
    from lehr.base.protocols import Observer as Observer
    from lehr.data.data import Data as Data
    from lehr.measurement.ablate import ablate as ablate
    from lehr.measurement.speed import speed as speed
    from lehr.run.recipe import Evaluate as Evaluate
    from lehr.run.recipe import Recipe as Recipe
    from lehr.run.recipe import Save as Save
    from lehr.run.recipe import Stop as Stop
    from lehr.run.recipe import Track as Track
    from lehr.run.resume import resume as resume
    from lehr.run.trainer import Trainer as Trainer
    from lehr.run.trainer import train as train

__version__ = "0.1.0"

_PUBLIC = {
    "Data": "lehr.data.data",
    "Evaluate": "lehr.run.recipe",
    "Method": "lehr.base.protocols",
    "Observer": "lehr.base.protocols",
    "Recipe": "lehr.run.recipe",
    "Save": "lehr.run.recipe",
    "Stop": "lehr.run.recipe",
    "StopRun": "lehr.base.errors",
    "Track": "lehr.run.recipe",
    "Trainer": "lehr.run.trainer",
    "ablate": "lehr.measurement.ablate",
    "resume": "lehr.run.resume",
    "speed": "lehr.measurement.speed",
    "train": "lehr.run.trainer",
}
_FOLDERS = ("augment", "averaging", "layers", "levers", "losses", "metrics", "optim", "schedules", "transfer")

__all__ = [  # noqa: RUF022 - what describes a run, what runs it, what listens, the folders
    "Data",
    "Evaluate",
    "Recipe",
    "Save",
    "Stop",
    "Track",
    "Trainer",
    "ablate",
    "resume",
    "speed",
    "train",
    "Method",
    "Observer",
    "StopRun",
    "augment",
    "averaging",
    "layers",
    "levers",
    "losses",
    "metrics",
    "optim",
    "schedules",
    "transfer",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _FOLDERS:
        return importlib.import_module(f"lehr.{name}")
    raise AttributeError(f"module 'lehr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
