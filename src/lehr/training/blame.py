"""Where a value that is not finite came from: the failing step again, with every module watched.

Weights and buffers are as they were before the step, and its noise is addressed, so the replay meets the same numbers.
Nothing of this runs, or costs anything, before a step has failed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lehr.base import seeds
from lehr.base.batches import num_samples, split, tensors_of
from lehr.base.protocols import Batch
from lehr.losses.objective import Objective

__all__ = ["Blame", "find_nonfinite"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blame:
    """What was found: where the first value that is not finite appeared, and in which samples."""

    where: str
    """``input``, the name of a module, ``loss``, or the name of a parameter whose gradient it is."""
    kind: str
    """"input", "module", "parameter", "loss" or "gradient"."""
    samples: tuple[int, ...]
    """The ids of the samples concerned: those whose rows are not finite, or all of the microbatch."""

    def sentence(self) -> str:
        """Say it in words.

        >>> Blame(where="fc1", kind="module", samples=(3, 5)).sentence()
        "it first appeared in the output of module 'fc1', samples 3, 5"
        """
        first = {
            "input": "the batch itself is not finite",
            "module": f"it first appeared in the output of module {self.where!r}",
            "parameter": f"the parameter {self.where!r} itself is not finite",
            "loss": "every module's output is finite, but the loss is not",
            "gradient": f"the loss is finite, but the gradient of {self.where!r} is not",
            "unknown": "it did not appear again when the step was repeated",
        }[self.kind]
        ids = ", ".join(str(i) for i in self.samples[:20]) + (" ..." if len(self.samples) > 20 else "")
        return f"{first}, samples {ids}"


def find_nonfinite(
    model: nn.Module,
    objective: Objective,
    batch: Batch,
    *,
    ids: Sequence[int],
    accumulate: int,
    noise: int,
    step: int,
    device: torch.device,
    autocast: Callable[[], Any],
) -> Blame:
    """Repeat the step and return the first place where something is not finite."""
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return Blame(where=name, kind="parameter", samples=tuple(ids))
    start = 0
    for index, microbatch in enumerate(split(batch, accumulate)):
        own = list(ids[start : start + num_samples(microbatch)])
        start += num_samples(microbatch)
        seeds.seed_noise(noise, step, index, device.type)
        found = _in_microbatch(model, objective, microbatch, own, autocast)
        model.zero_grad(set_to_none=True)
        if found is not None:
            return found
    return Blame(where="", kind="unknown", samples=tuple(ids))


def _in_microbatch(
    model: nn.Module, objective: Objective, batch: Batch, ids: list[int], autocast: Callable[[], Any]
) -> Blame | None:
    bad_rows = _bad_rows(tensors_of(batch), len(ids))
    if bad_rows is not None:
        return Blame(where="input", kind="input", samples=_of(ids, bad_rows))
    found: list[Blame] = []
    name_of = {module: name for name, module in model.named_modules()}

    def watch(module: nn.Module, _inputs: Any, output: Any) -> None:
        rows = None if found else _bad_rows(tensors_of(output), len(ids))
        if rows is not None:
            found.append(Blame(where=name_of[module] or type(module).__name__, kind="module", samples=_of(ids, rows)))

    hooks = [module.register_forward_hook(watch) for module in name_of]
    try:
        with autocast():
            loss, _count = objective(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    if found:
        return found[0]
    if not bool(torch.isfinite(loss)):
        return Blame(where="loss", kind="loss", samples=tuple(ids))
    if loss.requires_grad:
        torch.autograd.backward(loss)
    for name, parameter in reversed(list(model.named_parameters())):  # the last ones are nearest to the loss
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return Blame(where=name, kind="gradient", samples=tuple(ids))
    return None


def _bad_rows(tensors: Any, samples: int) -> list[int] | None:
    """Return the rows that hold a value that is not finite (all of them when rows are not samples), or None."""
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            continue
        bad = ~torch.isfinite(tensor)
        if bool(bad.any()):
            if tensor.ndim and tensor.shape[0] == samples:
                return bad.reshape(samples, -1).any(dim=1).nonzero()[:, 0].tolist()
            return []
    return None


def _of(ids: list[int], rows: list[int]) -> tuple[int, ...]:
    return tuple(ids[row] for row in rows) if rows else tuple(ids)
