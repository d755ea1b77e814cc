"""lehr: training for PyTorch that is fast, exact and hard to lose. Nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lehr.data.data import Data as Data
    from lehr.run.recipe import Recipe as Recipe
    from lehr.run.resume import resume as resume
    from lehr.run.trainer import Trainer as Trainer
    from lehr.run.trainer import train as train

__version__ = "0.1.0"

_PUBLIC = {
    "Data": "lehr.data.data",
    "Recipe": "lehr.run.recipe",
    "Trainer": "lehr.run.trainer",
    "resume": "lehr.run.resume",
    "train": "lehr.run.trainer",
}
_FOLDERS = ("losses", "metrics", "optim", "schedules")

__all__ = ["Data", "Recipe", "Trainer", "losses", "metrics", "optim", "resume", "schedules", "train"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _FOLDERS:
        return importlib.import_module(f"lehr.{name}")
    raise AttributeError(f"module 'lehr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
