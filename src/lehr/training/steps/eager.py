"""One update, operation by operation: forward, backward, normalize, check, clip, update. The reference."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lehr.base import seeds
from lehr.base.batches import num_samples, split
from lehr.base.momentum import set_momentum
from lehr.base.protocols import Batch, Place
from lehr.dist.collectives import sum_over_ranks, sums_over_ranks
from lehr.dist.ranks import Ranks
from lehr.dist.wrap import without_sync
from lehr.losses.objective import Objective
from lehr.optim.clip import clip_factor, global_norm
from lehr.optim.exchange import decay_products
from lehr.optim.lean import lean_step
from lehr.schedules.schedule import Schedule
from lehr.training.buffers import KeptBuffers
from lehr.training.events import Listeners
from lehr.training.steps.latch import Latch, set_found_inf
from lehr.training.untrained import Untrained

__all__ = ["EagerStep", "Outcome", "Withheld"]

_BEFORE = -1
"""Stands for the microbatch in the address of what is drawn before there are any."""
_SHARED = contextlib.nullcontext()

Withheld = Literal["nonfinite", "overflow", "empty"]
"""Why an update did not happen: something not finite, fp16's range left, or nothing to count."""


class Outcome(NamedTuple):
    """What one step gave, over all processes. Numbers on a CPU; tensors where reading them would make it wait."""

    total: Any
    """The summed loss."""
    count: Any
    """What the objective counted."""
    samples: Any
    norm: Any = 0.0
    """The norm of the normalized gradients, before clipping."""
    withheld: Withheld | None = None
    microbatches: int = 1


@dataclass(kw_only=True)
class EagerStep:
    """Makes one update of ``model`` from one batch. With a latch it reads nothing back from the device."""

    model: nn.Module
    """The model itself, as methods see it."""
    called: nn.Module
    """The model as it is called: compiled, or wrapped to share gradients, or itself."""
    objective: Objective
    optimizers: Sequence[torch.optim.Optimizer]
    schedule: Schedule
    listeners: Listeners
    noise: int
    """Address of the model's own noise, for this rank."""
    device: torch.device
    autocast: Callable[[], Any]
    scaler: torch.amp.GradScaler | None
    clip: float | None
    accumulate: int
    ranks: Ranks
    buffers: KeptBuffers
    reference: int
    """Divides a rank's loss before the backward pass where ranks must agree on a divisor: the configured batch size."""
    momentum: Schedule | None = None
    """The momentum by step, where the schedule cycles it."""
    latch: Latch | None = None
    untrained: Untrained | None = None
    """Looks at the first steps for parameters that nothing reaches."""
    writing: bool = False
    """Whether weights are being changed, so that an error leaves them between two updates."""

    def __post_init__(self) -> None:
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group.setdefault("initial_lr", float(group["lr"]))
        self.take_hold()
        self.steps = [lean_step(optimizer) for optimizer in self.optimizers]
        self._unit: tuple[float, Tensor] = (0.0, torch.empty(0))

    def take_hold(self) -> None:
        """Take hold of the parameters as the optimizers now have them; at the start, and when layers were exchanged."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        self.parameters: list[Tensor] = [p for group in groups for p in group["params"]]
        self.rates = [(group, group["initial_lr"] * group.get("factor_rate", 1.0)) for group in groups]
        self.products = [group for group in groups if group.get("frobenius")]
        if self.untrained is not None:
            self.untrained = Untrained(self.model, self.optimizers)

    def __call__(self, batch: Batch, step: int, place: Place | None) -> Outcome:
        """Train on ``batch`` as update number ``step``; the parameters are untouched when it is withheld."""
        self.buffers.keep()
        try:
            return self.attempt(batch, step, place)
        except Exception:
            if not self.writing:
                self.buffers.put_back()
            raise

    def attempt(self, batch: Batch, step: int, place: Place | None) -> Outcome:
        """As `__call__`; an error may leave buffers changed."""
        microbatches = split(batch, self.accumulate)
        total, count, divisor = self.backward(microbatches, step, place)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.scaler is not None:
            for optimizer in self.optimizers:
                self.scaler.unscale_(optimizer)
        finish = self.finish_reading if self.latch is None else self.finish_latched
        outcome = finish(gradients, Outcome(total, count, num_samples(batch)), divisor, step, place)
        if self.untrained is not None and outcome.withheld is None and self.untrained.look():
            self.untrained = None
        for parameter in self.parameters:
            parameter.grad = None
        return outcome if len(microbatches) == 1 else outcome._replace(microbatches=len(microbatches))

    def changed(self, batch: Batch, step: int, place: Place | None) -> Batch:
        """Return the batch as the methods change it, with draws that follow from the step."""
        seeds.seed_noise(self.noise, step, _BEFORE, self.device.type)
        for change in self.listeners.batch_ready:
            batch = change(batch, place)
        return batch

    def backward(
        self, microbatches: list[Batch], step: int, place: Place | None
    ) -> tuple[Tensor, Tensor | float, float | Tensor]:
        """Add up the gradients of all microbatches; returns the loss, its count, and what gradients were divided by.

        The divisor is a guess at the count, made before the count is known, so that gradients have the size of a mean's
        (fp16 needs that): the first microbatch's count times their number. Usually it is right, and nothing is left to
        correct. Several ranks use one number that all of them know.
        """
        total: Any = 0.0
        count: Any = 0
        divisor: Any = None
        last = len(microbatches) - 1
        for index, microbatch in enumerate(microbatches):
            seeds.seed_noise(self.noise, step, index, self.device.type)
            # ranks share gradients after the last microbatch; what decides it is the forward pass, not the backward
            with without_sync(self.called) if index < last else _SHARED:
                with self.autocast():
                    loss, counted = self.objective(self.called, microbatch)
                    for add in self.listeners.loss_ready:
                        loss = add(loss, counted, self.model, place)
                if divisor is None:
                    divisor = self.first_divisor(counted, len(microbatches))
                torch.autograd.backward(loss, self.unit(divisor, loss))
            total = total + loss.detach() if index else loss.detach()
            count = count + counted if index else counted
        return total, count, divisor

    def first_divisor(self, counted: Tensor | float, microbatches: int) -> float | Tensor:
        """Return the guess at the step's count."""
        if self.ranks.world > 1:
            return float(self.reference)
        if self.latch is not None and isinstance(counted, Tensor):
            return counted.clamp(min=1) * microbatches
        return max(1.0, float(counted)) * microbatches

    def unit(self, divisor: float | Tensor, loss: Tensor) -> Tensor:
        """Return what the backward pass of ``loss`` starts from: 1/divisor, times the scale for fp16."""
        if isinstance(divisor, Tensor):
            unit = divisor.to(loss.dtype).reciprocal()
        elif self._unit[0] == divisor and self._unit[1].dtype == loss.dtype:
            unit = self._unit[1]
        else:
            unit = torch.full((), 1 / divisor, dtype=loss.dtype, device=loss.device)
            self._unit = (divisor, unit)
        return unit if self.scaler is None else self.scaler.scale(unit)

    def finish_reading(
        self, gradients: list[Tensor], raw: Outcome, divisor: Any, step: int, place: Place | None
    ) -> Outcome:
        """Read the loss, the count and the norm, and update only if they allow it."""
        total, count, samples = float(raw.total), float(raw.count), raw.samples
        if self.ranks.world > 1:
            total, count, samples = sums_over_ranks([total, count, samples], self.ranks, self.device)
        if count == 0:
            return self.withhold(Outcome(total, count, samples, withheld="empty"))
        correction = divisor * self.ranks.world / count
        norm = global_norm(gradients)
        if correction != 1:
            norm = norm * correction
        size = norm.item()
        if not (math.isfinite(size) and math.isfinite(total)):
            reason: Withheld = "nonfinite" if self.scaler is None else "overflow"
            return self.withhold(Outcome(total, count, samples, size, reason))
        if self.clip is not None and size > self.clip:
            torch._foreach_mul_(gradients, clip_factor(norm, self.clip) * correction)
        elif correction != 1:
            torch._foreach_mul_(gradients, correction)
        self.update(step, place)
        if self.scaler is not None:
            self.scaler.update()
        return Outcome(total, count, samples, size)

    def finish_latched(
        self, gradients: list[Tensor], raw: Outcome, divisor: Any, step: int, place: Place | None
    ) -> Outcome:
        """Decide on the device: from the first bad step on, updates and buffers are masked until the host looks."""
        assert self.latch is not None
        count, samples = (torch.as_tensor(v, dtype=torch.float64, device=self.device) for v in raw[1:3])
        total, count, samples = sum_over_ranks(torch.stack([raw.total.double(), count, samples]), self.ranks).unbind()
        correction = (divisor * self.ranks.world / count.clamp(min=1e-30)).float()
        norm = global_norm(gradients) * correction
        factor = correction if self.clip is None else clip_factor(norm, self.clip) * correction
        torch._foreach_mul_(gradients, factor)
        bad = self.latch.close_on(~(torch.isfinite(norm) & torch.isfinite(total)) | (count == 0), step)
        for optimizer in self.optimizers:
            set_found_inf(optimizer, bad.float())
        self.update(step, place)
        if self.buffers:
            self.buffers.put_back_where(bad)
        return Outcome(total, count, samples, norm)

    def read_every_step(self) -> None:
        """Give up the latch, and look at each step before its update."""
        self.latch = None
        for optimizer in self.optimizers:
            set_found_inf(optimizer, None)

    def update(self, step: int, place: Place | None) -> None:
        """Set the rates and let the optimizers change the parameters."""
        for change in self.listeners.grads_ready:
            change(self.model, place)
        factor = self.schedule(step)
        for change in self.listeners.rate_ready:
            factor = change(factor, place)
        self.writing = True
        for group, base in self.rates:
            group["lr"] = base * factor
        if self.momentum is not None:
            set_momentum(self.optimizers, self.momentum(step))
        for step_optimizer in self.steps:
            step_optimizer()
        if self.products:
            decay_products(self.products)

    def withhold(self, outcome: Outcome) -> Outcome:
        """Leave everything as it was before the step."""
        if self.buffers:
            self.buffers.put_back()
        if self.scaler is not None:
            self.scaler.update()
        return outcome
