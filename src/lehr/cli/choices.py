"""Options with a few words to choose from."""

from __future__ import annotations

from typing import Any

from lehr.base.errors import SettingError
from lehr.base.tables import did_you_mean

__all__ = ["choice"]


def choice(option: str, given: str, known: tuple[str, ...]) -> Any:
    """Return ``given`` if it is known.

    >>> choice("--split", "vall", ("val", "train"))
    Traceback (most recent call last):
    ...
    lehr.base.errors.SettingError: --split vall is unknown (did you mean 'val'?); choose from: val, train
    """
    if given not in known:
        raise SettingError(f"{option} {given} is unknown{did_you_mean(given, known)}; choose from: {', '.join(known)}")
    return given
