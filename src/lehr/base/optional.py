"""Optional packages enter here, so that a missing one is a sentence and not a traceback."""

from __future__ import annotations

import importlib
from types import ModuleType

from lehr.base.errors import SettingError

__all__ = ["need"]


def need(module: str, *, extra: str, why: str) -> ModuleType:
    """Import ``module``, or say which extra brings it.

    >>> need("json", extra="data", why="an example").__name__
    'json'
    >>> need("no_such_package", extra="data", why="an example")
    Traceback (most recent call last):
    ...
    lehr.base.errors.SettingError: an example needs the package 'no_such_package', which is not installed; ...
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        package = (missing.name or module).partition(".")[0]
        raise SettingError(
            f"{why} needs the package {package!r}, which is not installed; run: pip install 'lehr[{extra}]'"
        ) from None
