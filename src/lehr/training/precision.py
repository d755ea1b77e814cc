"""Floating-point formats for the forward and backward pass; parameters stay in the format they have."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from lehr.base.errors import LehrWarning
from lehr.base.protocols import Batch

__all__ = ["Precision", "autocast", "scaler", "warn_if_bf16_is_slower", "warn_of_low_precision_weights"]

Precision = Literal["fp32", "tf32", "bf16", "bf16-weights", "fp16", "fp8"]
_TYPES = {"bf16": torch.bfloat16, "fp8": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: Precision, device_type: str) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Return what opens the context of a forward pass: torch's autocast for 16 bits, and else nothing.

    With fp8 it is bf16's, for all that is not a linear layer.

    >>> with autocast("bf16", "cpu")():
    ...     nn.Linear(2, 2)(torch.ones(1, 2)).dtype
    torch.bfloat16
    """
    if precision not in _TYPES:
        return contextlib.nullcontext
    return lambda: torch.autocast(device_type, dtype=_TYPES[precision])


def scaler(precision: Precision, device_type: str) -> torch.amp.GradScaler | None:
    """Return torch's gradient scaler for fp16, one for the whole run; bf16 has fp32's range and needs none."""
    return torch.amp.GradScaler(device_type) if precision == "fp16" else None


def warn_of_low_precision_weights(model: nn.Module) -> None:
    """Warn where parameters themselves are bf16 or fp16: small updates are rounded away and never add up."""
    low = [n for n, p in model.named_parameters() if p.requires_grad and p.dtype in _TYPES.values()]
    if low:
        warnings.warn(
            f"{len(low)} parameters are {model.get_parameter(low[0]).dtype} (first: {low[0]!r}); an update smaller "
            "than about 1/256 of a weight is lost. Keep the weights in float32 and set precision='bf16'",
            LehrWarning,
            stacklevel=2,
        )


def warn_if_bf16_is_slower(
    forward: Callable[[nn.Module, Batch], Any], model: nn.Module, batch: Batch, *, repeats: int = 3
) -> float:
    """Time forward and backward passes in bf16 and fp32 on this CPU, in turn; warn where bf16 loses.

    Returns the ratio bf16 / fp32 of the fastest passes. Gradients are discarded.
    """
    seconds: dict[Precision, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(repeats + 1):  # the first pair warms up
        for precision, taken in seconds.items():
            start = time.perf_counter()
            with autocast(precision, "cpu")():
                total, _count = forward(model, batch)
            torch.autograd.backward(total)
            taken.append(time.perf_counter() - start)
    model.zero_grad(set_to_none=True)
    ratio = min(seconds["bf16"][1:]) / min(seconds["fp32"][1:])
    if ratio > 1:
        warnings.warn(
            f"precision='bf16' takes {ratio:.2f} times as long as fp32 for this model on this processor; "
            "precision='fp32' would be faster",
            LehrWarning,
            stacklevel=2,
        )
    return ratio
