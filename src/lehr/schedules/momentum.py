"""The range of a momentum that is cycled against the rate."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

__all__ = ["MomentumRange"]


def _check(given: tuple[float, float] | None) -> tuple[float, float] | None:
    if given is not None and not 0 <= given[0] < given[1] < 1:
        raise ValueError("give the lowest and the highest momentum, 0 <= low < high < 1, such as [0.85, 0.95]")
    return given


MomentumRange = Annotated[tuple[float, float] | None, AfterValidator(_check)]
"""The type of a settings field that takes the lowest and the highest momentum, or None to leave it alone."""
