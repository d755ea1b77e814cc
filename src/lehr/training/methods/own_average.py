"""Optimizers that evaluate an average of their own, beside which another one has no place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lehr.base.errors import SettingError
from lehr.base.protocols import Averaged

__all__ = ["refuse_own_average"]


def refuse_own_average(optimizers: Iterable[Any], instead: str) -> None:
    """Refuse a method beside an optimizer whose average takes the place of the weights, as a schedule-free one's does.

    ``instead`` says why, and what to do.
    """
    for optimizer in optimizers:
        if isinstance(optimizer, Averaged) and not optimizer.prefix:
            raise SettingError(f"{type(optimizer).__name__} evaluates an average of its own, {instead}")
