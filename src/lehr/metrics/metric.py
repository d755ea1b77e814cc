"""A metric: how it is computed, and which direction is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from lehr.base.settings import describe_callable

__all__ = ["Metric"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A named number of an evaluation.

    ``of="outputs"``: ``compute(output, target) -> (sum, count)`` on each batch, of what the model and the data give.
    ``of="classes"``: ``compute(scores, labels, counted) -> (sum, count)`` with scores (..., classes) and labels (...)
    as the loss understands them, and a mask of the labels that count (None for all).
    ``of="loss"``: ``compute(mean loss)``.
    ``of="model"``: ``compute(model, batch) -> (sum, count)``; costly ones (decoding), only run by ``lehr eval``.
    """

    name: str
    of: Literal["outputs", "classes", "loss", "model"]
    compute: Callable[..., Any]
    goal: Literal["min", "max"]
    per: str | None = None
    """A fact about the data that divides the value, where the data states it."""

    def on(self, facts: Mapping[str, Any]) -> Metric:
        """Return the metric as it is on data with these facts.

        >>> Metric(name="cost", of="loss", compute=float, goal="min", per="size").on({"size": 4}).compute(2.0)
        0.5
        """
        if self.per is None or facts.get(self.per, 1) == 1:
            return self
        compute, divisor = self.compute, facts[self.per]
        return replace(self, compute=lambda *given: compute(*given) / divisor, per=None)

    def __repr__(self) -> str:
        """Name it as settings are named."""
        return f"Metric({self.name}: {describe_callable(self.compute)})"
