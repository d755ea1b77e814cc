"""A patch: settings in a file, for ``lehr train --recipe-patch``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lehr.base.errors import SettingError
from lehr.reporting.page import write_page

__all__ = ["read_patch", "write_patch"]


def write_patch(path: Path, settings: Sequence[str], *, recipe: str, why: str) -> Path:
    """Write a patch, and beside it what it was made for."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"the patch {path} cannot be written: {error.strerror}") from error
    content = json.dumps({"set": list(settings), "recipe": recipe, "why": why}, indent=1)
    return write_page(content + "\n", path, what="patch")


def read_patch(path: Path) -> tuple[str, ...]:
    """Return the settings of a patch, as ``--set`` takes them."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise SettingError(f"--recipe-patch {path}: {error.strerror}; `lehr speed` writes patches") from None
    except ValueError as error:
        raise SettingError(f"--recipe-patch {path} is not JSON: {error}; `lehr speed` writes patches") from None
    settings = content.get("set") if isinstance(content, dict) else None
    if not isinstance(settings, list) or not all(isinstance(setting, str) for setting in settings):
        raise SettingError(f'--recipe-patch {path} has no list "set" of settings such as "step=whole"')
    return tuple(settings)
