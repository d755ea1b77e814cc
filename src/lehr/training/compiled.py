"""Compiling a model's forward and backward pass, and saying so when torch does it often, or not at all."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from lehr.base.batches import tensors_of
from lehr.base.errors import LehrWarning, NoEffectWarning, SettingError
from lehr.base.protocols import Batch, Observer, Place, Record
from lehr.levers.blocks import repeated_blocks

__all__ = ["COMPILER", "Compile", "CompileWatch"]

Compile = bool | Literal["blocks", "reduce-overhead", "max-autotune"]
"""What of a model is compiled and how: nothing, all of it, its repeated blocks, or all in one of torch's modes."""


class _CountedCompiler:
    """Torch's default compiler, with counts. Torch keeps one cache of graphs per process, so there is one of these."""

    def __init__(self) -> None:
        self.compiled = self.ran = 0

    def __call__(
        self, graph: torch.fx.GraphModule, inputs: list[Any], *, mode: str | None = None
    ) -> Callable[..., Any]:
        from torch._inductor import list_mode_options
        from torch._inductor.compile_fx import compile_fx

        self.compiled += 1
        run: Any = compile_fx(graph, inputs, config_patches=list_mode_options(mode) if mode else None)

        def counted(*given: Any) -> Any:
            self.ran += 1
            return run(*given)

        return counted


COMPILER = _CountedCompiler()
"""Compiles all that lehr has compiled."""


class CompileWatch(Observer):
    """Counts the graphs that torch compiles for a model, and reports once when a part is left to eager execution.

    Only the model is compiled; hooks, the loss's reading and recording stay outside. State is taken from the model
    itself, so no name in a checkpoint gets a prefix. A short last batch and the change to evaluation each cost one
    more graph, not one each time.
    """

    def __init__(self, model: nn.Module, how: Compile = True) -> None:
        if how == "blocks":
            self.called: nn.Module = model
            self._compile_blocks(model)
        else:
            backend = functools.partial(COMPILER, mode=how) if isinstance(how, str) else COMPILER
            self.called = torch.compile(model, backend=backend)  # type: ignore[assignment]
        self._compiled, self._ran = COMPILER.compiled, COMPILER.ran
        self._left = _left_to_eager()
        self._said = False

    @staticmethod
    def _compile_blocks(model: nn.Module) -> None:
        """Compile the model's repeated blocks in place: they share their graphs, and names stay."""
        blocks = repeated_blocks(model)
        if not blocks:
            raise SettingError(
                f"compile=blocks needs a model with repeated blocks, but {type(model).__name__} has none; use "
                "compile=true"
            )
        own = next((type(block) for block in blocks if type(block).__module__.startswith("torch.nn")), None)
        if own is not None:  # torch's compiler passes over calls of torch's own classes
            raise SettingError(
                f"compile=blocks cannot compile the model's blocks: they are torch's own {own.__name__}, not "
                "classes of yours; use compile=true"
            )
        for block in blocks:
            block.compile(backend=COMPILER)

    @property
    def compilations(self) -> int:
        """How many graphs were compiled since the start; fewer when an earlier run of the process had the same."""
        return COMPILER.compiled - self._compiled

    @staticmethod
    def any_size(batch: Batch) -> Batch:
        """Say that the number of samples varies, so that an evaluation's short last batch needs no graph of its own."""
        for tensor in tensors_of(batch):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return batch

    def logged(self, place: Place, record: Record) -> None:
        """Look whether anything compiled was run, and whether torch has left a part to eager execution."""
        if self._said or record.get("split") != "train":
            return
        left = _left_to_eager()
        if COMPILER.ran == self._ran:
            self._say(NoEffectWarning, "compile=True had no effect: torch compiled nothing of the model")
        elif left != self._left:
            reason = next((text for text in left if text not in self._left), "a limit on compilations was reached")
            self._say(LehrWarning, f"torch runs a part of the model without compiling it: {reason.splitlines()[0]}")

    def _say(self, kind: type[Warning], text: str) -> None:
        self._said = True
        warnings.warn(text, kind, stacklevel=2)


def _left_to_eager() -> dict[str, int]:
    """Return torch's own counts, per reason, of what it did not compile."""
    from torch._dynamo.utils import counters

    frames = counters["frames"]
    reasons = {
        str(reason): count for kind in ("unimplemented", "graph_break") for reason, count in counters[kind].items()
    }
    return reasons | {"frames": frames["total"] - frames["ok"]}
