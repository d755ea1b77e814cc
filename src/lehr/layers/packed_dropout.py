"""Dropout whose draws are made four at a time: on a CPU, drawing is most of what dropout costs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lehr.layers.dropout import check_rate

__all__ = ["PackedDropout", "pack_dropout", "packed_dropout"]

LEVELS = 2**16
"""Different values of a draw of 16 bits."""


def packed_dropout(x: Tensor, p: float) -> Tensor:
    """Return x·m/(1 − q) with m = 0 at rate q and 1 otherwise, where q is p to the nearest of 65,536 levels.

    torch's generator makes 64 bits at a time; each draw here takes 16 of them, where torch's dropout takes 53. Draws
    come from the global generator. For CPUs: on other devices, torch's dropout is one kernel already.

    Raises: `SettingError` for p outside of [0, 1).

    >>> packed_dropout(torch.ones(1000), 0.5).unique()
    tensor([0., 2.])
    """
    dropped = round(check_rate(p) * LEVELS)
    if dropped == LEVELS:  # all of them: a p so near to 1 has no level of its own
        return x * 0.0
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    draws = words.view(torch.int16)[: x.numel()].view(x.shape)
    # written as numbers at once: a comparison makes truth values otherwise, which cost a pass to turn into numbers
    kept = torch.ge(draws, dropped - LEVELS // 2, out=torch.empty(x.shape, dtype=x.dtype, device=x.device))
    return x * kept.mul_(LEVELS / (LEVELS - dropped))


class PackedDropout(nn.Dropout):
    """`torch.nn.Dropout` with the draws of `packed_dropout`.

    >>> PackedDropout(0.5).eval()(torch.ones(2))
    tensor([1., 1.])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the input, with values dropped in training."""
        return packed_dropout(input, self.p) if self.training and self.p else input


def pack_dropout(model: nn.Module) -> int:
    """Exchange each `torch.nn.Dropout` within a model for a `PackedDropout`, in place; returns how many there were.

    What torch's attention drops by itself is left to it. Names of parameters stay.

    >>> pack_dropout(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)))
    1
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent._modules.items()  # `named_children` leaves out a second name of the same one
        if type(child) is nn.Dropout and 0 < child.p < 1
    ]
    for parent, name, child in found:
        setattr(parent, name, PackedDropout(child.p).train(child.training))
    return len(found)
