"""One update as one compiled graph: forward, backward, norm, clip, check and the optimizer's own step."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn

from lehr.base import seeds
from lehr.base.batches import num_samples, split
from lehr.base.errors import SettingError
from lehr.base.protocols import Batch, Place
from lehr.optim.clip import clip_factor, global_norm
from lehr.optim.exchange import decay_products
from lehr.training.compiled import COMPILER
from lehr.training.steps.eager import EagerStep, Outcome

__all__ = ["WholeStep"]

_TRACED = {"trace_autograd_ops": True}
"""What lets torch trace a backward pass as a part of a graph (torch 2.12 and newer)."""


@dataclass(kw_only=True)
class WholeStep(EagerStep):
    """Makes the update of `EagerStep` in one graph, with the weights, the state and the buffers changed in place.

    The gradients go into buffers that the parameters hold, so that the optimizer's own ``step`` can be traced behind
    the backward pass; rates are 0-d tensors, and no step compiles anew because one has changed. An update that is to be
    withheld is masked within the graph, and the host reads the loss and the norm as it does after an eager step.

    What comes in other sizes than most batches do, as the last one of an epoch, and the very first update, in which
    optimizers make their state, are eager: that follows from the step and the batch alone, so that a resumed run does
    the same. Noise within the model follows from the step, as ever, but it is not the noise of an eager step.
    """

    _graph: Callable[..., Any] | None = field(default=None, init=False)

    @property
    def compilations(self) -> int:
        """How many graphs were compiled since the start."""
        return COMPILER.compiled - self._before

    def __post_init__(self) -> None:
        if reason := self._obstacle():
            raise SettingError(f"step=whole is not possible here: {reason}; or use step=eager")
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if "fused" in group:  # a kernel that the compiler cannot look into
                    group["fused"] = False
        super().__post_init__()
        self._before = COMPILER.compiled

    def _obstacle(self) -> str | None:
        """Return what is known to stand against one graph."""
        world = self.ranks.world
        obstacles = {
            f"gradients are shared between {world} processes in the middle of it": world > 1,
            "precision=fp16 reads its scale in the middle of it": self.scaler is not None,
            "compile=true compiles a part of it by itself; leave that out": self.called is not self.model,
            "a method adds to the loss or changes gradients": self.listeners.loss_ready or self.listeners.grads_ready,
            "the schedule cycles the momentum, which is no tensor": self.momentum is not None,
            "an optimizer has hooks, which are no part of its step": any(map(_hooked, self.optimizers)),
            "no C++ compiler is found (g++, clang++, or what CXX names)": self.device.type == "cpu" and not _compiler(),
            **{f"{type(o).__name__}: {_on_host(o)}": _on_host(o) for o in self.optimizers},
        }
        return next((reason for reason, holds in obstacles.items() if holds), None)

    def take_hold(self) -> None:
        """As in `EagerStep`; what was compiled is forgotten."""
        super().take_hold()
        self._graph = None

    def attempt(self, batch: Batch, step: int, place: Place | None) -> Outcome:
        """Make the update in the graph, or as `EagerStep` where that is what it has to be."""
        if step == 0 or num_samples(batch) != self.reference:
            return super().attempt(batch, step, place)
        microbatches = split(batch, self.accumulate)
        compiled = self._graph is not None
        if self._graph is None:
            self._graph = self._compiled(microbatches[0], step)
        self._set_rates(step, place)
        for parameter, gradient in self._gradients.items():
            parameter.grad = gradient
        seeds.seed_noise(self.noise, step, 0, self.device.type)
        self.writing = compiled  # before that an error is one of compiling
        with torch._dynamo.config.patch(_TRACED), _said_clearly():
            total, count, norm = self._graph(microbatches)
        outcome = self._read(total, count, norm, num_samples(batch))
        if self.untrained is not None and outcome.withheld is None and self.untrained.look():
            self.untrained = None
        for parameter in self.parameters:
            parameter.grad = None
        return outcome._replace(microbatches=len(microbatches))

    def _read(self, total: Tensor, count: Any, norm: Tensor, samples: int) -> Outcome:
        """Read what the graph gave, as `EagerStep.finish_reading` does; what it must not do, it has not done."""
        size, loss, counted = norm.item(), float(total), float(count)
        if not counted:
            return self.withhold(Outcome(loss, counted, samples, withheld="empty"))
        if not (math.isfinite(size) and math.isfinite(loss)):
            return self.withhold(Outcome(loss, counted, samples, size, "nonfinite"))
        self.writing = True
        if self.products:
            decay_products(self.products)
        return Outcome(loss, counted, samples, size)

    def _set_rates(self, step: int, place: Place | None) -> None:
        factor = self.schedule(step)
        for change in self.listeners.rate_ready:
            factor = change(factor, place)
        for (group, base), rate in zip(self.rates, self._rates, strict=True):
            rate.fill_(base * factor)
            group["lr"] = rate

    def _compiled(self, microbatch: Batch, step: int) -> Callable[..., Any]:
        """Return the graph's function, and make what it works on."""
        self._rates = [torch.zeros((), dtype=torch.float32, device=self.device) for _ in self.rates]
        trained = self._reached(microbatch, step)
        self._gradients = {p: torch.zeros_like(p) for p in trained}
        state = [value for o in self.optimizers for of in o.state.values() for value in _tensors(of)]
        buffers = [b for module in self.model.modules() for b in module._buffers.values() if b is not None]
        held = [*trained, *state, *buffers]
        steps = [(inspect.unwrap(type(optimizer).step), optimizer) for optimizer in self.optimizers]
        clip, gradients = self.clip, list(self._gradients.values())

        objective, model, autocast = self.objective, self.called, self.autocast

        def whole(microbatches: list[Batch]) -> tuple[Tensor, Any, Tensor]:
            with torch.no_grad():
                before = [value.clone() for value in held]
            total, count, sums = _summed(objective, model, autocast, microbatches, trained)
            with torch.no_grad():
                counted = torch.as_tensor(count, dtype=torch.float32, device=total.device)
                share = 1 / counted.clamp(min=1)
                norm = global_norm(sums) * share
                factor = share if clip is None else share * clip_factor(norm, clip)
                for gradient, value in zip(gradients, sums, strict=True):
                    gradient.copy_(value * factor)
                for make, optimizer in steps:
                    make(optimizer)
                applied = torch.isfinite(norm) & torch.isfinite(total) & (counted > 0)
                for value, old in zip(held, before, strict=True):
                    value.copy_(torch.where(applied, value, old))
            return total, count, norm

        made: Callable[..., Any] = torch.compile(whole, fullgraph=True, backend=COMPILER)
        return made

    def _reached(self, microbatch: Batch, step: int) -> list[Tensor]:
        """Return the parameters that the loss depends on, by one pass that leaves nothing behind."""
        parameters = [p for p in self.parameters if p.requires_grad]
        seeds.seed_noise(self.noise, step, 0, self.device.type)
        with self.autocast():
            loss, _ = self.objective(self.called, microbatch)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        self.buffers.put_back()  # `__call__` has kept them
        return [p for p, gradient in zip(parameters, found, strict=True) if gradient is not None]


def _summed(
    objective: Any, model: nn.Module, autocast: Callable[[], Any], batches: list[Batch], parameters: list[Tensor]
) -> tuple[Tensor, Any, list[Tensor]]:
    """Return the loss, the count and the gradients, each summed over the microbatches."""
    totals, counts, gradients = [], [], []
    for batch in batches:
        with autocast():
            loss, counted = objective(model, batch)
        gradients.append(torch.autograd.grad(loss, parameters))
        totals.append(loss.detach())
        counts.append(counted)
    return sum(totals), sum(counts), [sum(of) for of in zip(*gradients, strict=True)]


def _tensors(state: Any) -> Iterator[Tensor]:
    """Yield all tensors in the state of a parameter."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors(value)


@contextlib.contextmanager
def _said_clearly() -> Iterator[None]:
    """Say what of a recipe is no graph, and what to do."""
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        where = next((line for line in reversed(lines) if line.startswith("File ")), "")
        raise SettingError(
            f"step=whole cannot make one graph of this recipe: {lines[0] if lines else type(error).__name__}"
            f"{f' ({where})' if where else ''}; use step=eager"
        ) from error


def _hooked(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)


def _on_host(optimizer: torch.optim.Optimizer) -> str | None:
    """Return why an optimizer's step is known to be no graph; torch finds out about others when it compiles them."""
    if type(optimizer).__module__.startswith("bitsandbytes"):
        return "its kernels are none that torch's compiler knows"
    return getattr(optimizer, "on_host", None)


def _compiler() -> str | None:
    return next(
        (found for name in (os.environ.get("CXX"), "g++", "clang++") if name and (found := shutil.which(name))), None
    )
