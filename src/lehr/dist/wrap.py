"""Data-parallel training: every rank holds the model; gradients are averaged while the backward pass runs."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lehr.dist.ranks import Ranks

__all__ = ["share_gradients", "without_sync"]


def share_gradients(model: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """Return ``model`` wrapped so that a backward pass averages gradients over the ranks; itself with one rank.

    State is always taken from the model that was given, so no name in a checkpoint carries a prefix.
    """
    if ranks.world == 1:
        return model
    return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def without_sync(model: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which gradients stay local: all microbatches of an update but the last."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else contextlib.nullcontext()
