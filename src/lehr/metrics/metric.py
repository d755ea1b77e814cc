"""A metric: how it is computed, and which direction is better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from lehr.base.settings import describe_callable

__all__ = ["Metric"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A named number of an evaluation.

    ``of="outputs"``: ``compute(output, target) -> (sum, count)`` on each batch. ``of="loss"``: ``compute(mean loss)``.
    ``of="model"``: ``compute(model, batch) -> (sum, count)``; dear ones (decoding), only run by ``lehr eval``.
    """

    name: str
    of: Literal["outputs", "loss", "model"]
    compute: Callable[..., Any]
    goal: Literal["min", "max"]

    def __repr__(self) -> str:
        """Name it as settings are named."""
        return f"Metric({self.name}: {describe_callable(self.compute)})"
