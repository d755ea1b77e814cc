"""A run that another recipe builds on: trained first where it is not there yet."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lehr.base.errors import PREEMPTED, LehrError
from lehr.recipes.table import RECIPES
from lehr.run.folder import RunFolder
from lehr.run.resume import resume
from lehr.run.trainer import train

__all__ = ["trained"]


class _Interrupted(LehrError):
    exit_code = PREEMPTED


def trained(name: str, path: Path) -> Path:
    """Return ``path`` with a finished run of the built-in recipe ``name`` in it; one that was cut short is resumed.

    Both the model that it makes and the time that it takes (seconds) follow from the recipe alone.
    """
    folder = RunFolder(path)
    if folder.result.is_file() and json.loads(folder.result.read_bytes())["stopped"] == "finished":
        return path
    print(f"training {name} in {folder} first, which this recipe builds on", file=sys.stderr)
    result = resume(path) if folder.recipe.is_file() else train(RECIPES[name].make(), run_dir=path)
    if result.stopped == "preempted":
        raise _Interrupted(f"stopped while training {name} in {folder}; the same command goes on with it")
    return path
