"""Compiling a model's forward and backward pass, and saying so when torch does it often, or not at all."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from lehr.base.errors import LehrWarning, NoEffectWarning
from lehr.base.protocols import Observer, Place, Record

__all__ = ["CompileWatch"]


class CompileWatch(Observer):
    """Counts the graphs that torch compiles for a model, and reports once when it falls back to eager execution.

    Only the model is compiled; hooks, the loss's reading and recording stay outside. State is taken from the model
    itself, so no name in a checkpoint gets a prefix. A short last batch and the change to evaluation each cost one
    more compilation, not one each time.
    """

    def __init__(self, model: nn.Module) -> None:
        self.called: nn.Module = torch.compile(model)  # type: ignore[assignment]
        self._before = self._frames()
        self._said = False

    @staticmethod
    def _frames() -> tuple[int, int]:
        from torch._dynamo.utils import counters

        frames = counters["frames"]
        return frames["total"], frames["ok"]

    @property
    def compilations(self) -> int:
        """How many graphs were compiled since the start."""
        return self._frames()[1] - self._before[1]

    def logged(self, place: Place, record: Record) -> None:
        """Look whether something was compiled, and whether torch has given up on a part."""
        if self._said or record.get("split") != "train":
            return
        total, done = (now - then for now, then in zip(self._frames(), self._before, strict=True))
        if done == 0:
            self._say(NoEffectWarning, "compile=True had no effect: torch compiled nothing of the model")
        elif total > done:
            self._say(LehrWarning, f"torch runs a part of the model without compiling it: {_reason()}")

    def _say(self, kind: type[Warning], text: str) -> None:
        self._said = True
        warnings.warn(text, kind, stacklevel=2)


def _reason() -> str:
    from torch._dynamo.utils import counters

    reasons: list[Any] = [*counters["unimplemented"], *counters["graph_break"]]
    return str(reasons[-1]).splitlines()[0] if reasons else "no reason was given"
