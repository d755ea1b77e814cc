"""A run that another recipe builds on: trained first where it is not there yet."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lehr.base.errors import PREEMPTED, LehrError, SettingError
from lehr.recipes.table import RECIPES
from lehr.run.folder import RunFolder
from lehr.run.resume import resume
from lehr.run.trainer import train

__all__ = ["trained"]


class _Interrupted(LehrError):
    exit_code = PREEMPTED


def trained(name: str, path: Path) -> Path:
    """Return ``path`` with a finished run of the built-in recipe ``name`` in it; one that was cut short is resumed.

    A run of another recipe, or of this one with other settings, is refused: it would be used without a word.
    """
    folder, make = RunFolder(path), RECIPES[name].make()
    begun = folder.recipe.is_file()
    if begun:
        saved = folder.read_recipe()
        if saved["source"]["place"] != make.__module__ or saved["overrides"]:
            settings = " ".join(saved["overrides"])
            raise SettingError(
                f"{folder} is to hold a run of {name} with its own settings, but holds one of "
                f"{saved['source']['place'] or 'a session'} {settings}".rstrip()
                + "; move that folder away"
            )
        if folder.result.is_file() and json.loads(folder.result.read_bytes())["stopped"] == "finished":
            return path
    elif path.exists() and any(path.iterdir()):
        raise SettingError(f"{folder} is to hold a run of {name}, but holds other files; move them away")
    what = "going on with" if begun else "training"
    print(f"{what} {name} in {folder} first, which this recipe builds on", file=sys.stderr)
    result = resume(path) if begun else train(make, run_dir=path)
    if result.stopped == "preempted":
        raise _Interrupted(f"stopped while training {name} in {folder}; the same command goes on with it")
    return path
