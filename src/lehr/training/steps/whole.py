"""One update with forward pass, backward pass, norm and clipping in one compiled graph, and the fused optimizer."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch._dynamo
from torch import Tensor

from lehr.base import seeds
from lehr.base.batches import num_samples, split
from lehr.base.errors import SettingError
from lehr.base.protocols import Batch, Place
from lehr.optim.clip import clip_factor, global_norm
from lehr.training.compiled import COMPILER
from lehr.training.steps.eager import EagerStep, Outcome

__all__ = ["WholeStep", "cpp_compiler"]


@dataclass(kw_only=True)
class WholeStep(EagerStep):
    """Makes the update of `EagerStep`, with all up to the gradients as they are applied in one graph.

    The finite check, methods that change gradients, rates and the optimizers come behind it, as in an eager step: any
    optimizer works, and a fused kernel is faster than what the compiler makes of its formula. What has another number
    of samples than most batches, as the last one of an epoch, is an eager step, which follows from the batch alone, so
    that a resumed run does the same. Noise within the model follows from the step, as ever, but it is not the noise of
    an eager step.
    """

    _graph: Callable[..., Any] | None = field(default=None, init=False)
    _trainable: list[bool] = field(default_factory=list, init=False)

    @property
    def compilations(self) -> int:
        """How many graphs were compiled since the start."""
        return COMPILER.compiled - self._before

    def __post_init__(self) -> None:
        if reason := self._obstacle():
            raise SettingError(f"step=whole is not possible here: {reason}; or use step=eager")
        super().__post_init__()
        self._before = COMPILER.compiled

    def _obstacle(self) -> str | None:
        """Return what is known to stand against one graph."""
        world = self.ranks.world
        obstacles = {
            f"gradients are shared between {world} processes in the middle of it": world > 1,
            "precision=fp16 reads its scale in the middle of it": self.scaler is not None,
            "a method adds to the loss": bool(self.listeners.loss_ready),
            "no C++ compiler is found (g++, clang++, or what CXX names)": self.device.type == "cpu"
            and cpp_compiler() is None,
        }
        return next((reason for reason, holds in obstacles.items() if holds), None)

    def take_hold(self) -> None:
        """As in `EagerStep`; what was compiled is forgotten."""
        super().take_hold()
        self._graph = None

    def attempt(self, batch: Batch, step: int, place: Place | None) -> Outcome:
        """Make the update through the graph, or as `EagerStep` where that is what it has to be."""
        if num_samples(batch) != self.reference:
            return super().attempt(batch, step, place)
        microbatches = split(batch, self.accumulate)
        trainable = [p.requires_grad for p in self.parameters]
        if self._graph is None or trainable != self._trainable:  # a method has frozen or unfrozen some
            self._graph, self._trainable = self._compiled(microbatches[0], step), trainable
        seeds.seed_noise(self.noise, step, 0, self.device.type)
        total, count, norm, gradients = self._call(microbatches)
        size, loss, counted = norm.item(), float(total), float(count)
        outcome = Outcome(loss, counted, num_samples(batch), size, microbatches=len(microbatches))
        if not counted:
            return self.withhold(outcome._replace(withheld="empty"))
        if not (math.isfinite(size) and math.isfinite(loss)):
            return self.withhold(outcome._replace(withheld="nonfinite"))
        for parameter, gradient in zip(self._reached, gradients, strict=True):
            parameter.grad = gradient
        self.update(step, place)
        if self.untrained is not None and self.untrained.look():
            self.untrained = None
        for parameter in self.parameters:
            parameter.grad = None
        return outcome

    def _call(self, microbatches: list[Batch]) -> Any:
        """Call the graph. Only where torch has to compile it, which fails by itself, is its configuration changed."""
        assert self._graph is not None
        try:
            return self._graph(microbatches)
        except torch._dynamo.exc.TorchDynamoException:
            with _tracing():
                return self._graph(microbatches)

    def _compiled(self, microbatch: Batch, step: int) -> Callable[..., Any]:
        """Return the graph's function, for the parameters that the loss depends on."""
        self._reached = reached = self._look(microbatch, step)
        objective, model, autocast, clip = self.objective, self.called, self.autocast, self.clip

        def whole(microbatches: list[Batch]) -> tuple[Tensor, Any, Tensor, list[Tensor]]:
            found: list[Any] = []
            total: Any = 0.0
            count: Any = 0
            for batch in microbatches:
                with autocast():
                    loss, counted = objective(model, batch)
                found.append(torch.autograd.grad(loss, reached))
                total, count = total + loss.detach(), count + counted
            with torch.no_grad():
                sums = [sum(of) for of in zip(*found, strict=True)]
                share = 1 / torch.as_tensor(count, dtype=torch.float32, device=sums[0].device).clamp(min=1)
                norm = global_norm(sums) * share
                factor = share if clip is None else share * clip_factor(norm, clip)
                return total, count, norm, [value * factor for value in sums]

        filtered: dict[str, Any] = {"guard_filter_fn": _worth_checking}
        made: Callable[..., Any] = torch.compile(whole, fullgraph=True, backend=COMPILER, options=filtered)
        return made

    def _look(self, microbatch: Batch, step: int) -> list[Tensor]:
        """Return the parameters that the loss depends on, by one pass that leaves nothing behind."""
        parameters = [p for p in self.parameters if p.requires_grad]
        seeds.seed_noise(self.noise, step, 0, self.device.type)
        with self.autocast():
            loss, _ = self.objective(self.called, microbatch)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        self.buffers.put_back()  # `__call__` has kept them
        return [p for p, gradient in zip(parameters, found, strict=True) if gradient is not None]


def _worth_checking(guards: Sequence[Any]) -> list[bool]:
    """Which of torch's conditions for using a graph again are checked at each call: all but those on code.

    That a function of torch's, of lehr's or of Python's is still the same one is no question during a run, and to ask
    it costs 20 us a step. What the recipe's own modules hold stays checked: a number in them may change.
    """
    return [
        not (guard.is_global and guard.name.startswith(_CODE) and "._global_" not in guard.name) for guard in guards
    ]


_CODE = (
    *("G['__builtins_dict", "G['__import_torch']", "G['__import_torch_dot_", "G['__import_lehr_dot_"),
    *("G['clip_factor']", "G['global_norm']"),
)
"""How torch names what it found in these modules and in this one. Hooks for all modules (``_global_``) are no code."""


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    """Let torch's compiler trace a backward pass as a part of a graph; say what of a recipe is no graph."""
    before, torch._dynamo.config.trace_autograd_ops = torch._dynamo.config.trace_autograd_ops, True
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        where = next((line for line in reversed(lines) if line.startswith("File ")), "")
        raise SettingError(
            f"step=whole cannot make one graph of this recipe: {lines[0] if lines else type(error).__name__}"
            f"{f' ({where})' if where else ''}; use step=eager"
        ) from error
    finally:
        torch._dynamo.config.trace_autograd_ops = before


def cpp_compiler() -> str | None:
    """Return the C++ compiler that torch would use on a CPU, if there is one."""
    names = (os.environ.get("CXX"), "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)
