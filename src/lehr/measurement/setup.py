"""What levers need to know, from a run that is put together."""

from __future__ import annotations

import os
from typing import Any, Literal

import torch
from torch import nn

from lehr.data.copy_ahead import reader
from lehr.data.indexed import IndexedLoader
from lehr.data.order import ShuffledOrder
from lehr.data.stream import StreamLoader
from lehr.levers.blocks import repeated_blocks
from lehr.levers.lever import Settings, Setup
from lehr.optim.adamw import AdamW
from lehr.run.assemble import Assembly
from lehr.training.steps.whole import cpp_compiler

__all__ = ["setup_of"]

BATCHES = 20
"""Over so many batches padding is averaged."""


def setup_of(assembly: Assembly) -> Setup:
    """Return what levers need to know of a run: of its recipe, its data, its model, and the machine."""
    recipe, model, loop = assembly.recipe, assembly.model, assembly.loop
    device, loader = loop.update.device, reader(loop.loader)
    cuda = device.type == "cuda"
    return Setup(
        device=device.type,
        capability=torch.cuda.get_device_capability(device) if cuda else (0, 0),
        cores=_cores(),
        threads=recipe.threads or torch.get_num_threads(),
        world=loop.update.ranks.world,
        compiler=device.type != "cpu" or cpp_compiler() is not None,
        precision=recipe.precision,
        step=recipe.step,
        compile=recipe.compile,
        steps=loop.total_steps,
        accumulate=recipe.accumulate,
        batch_size=loader.batch_size,
        optimizer=type(recipe.optim).__name__.lower(),
        adamw=_adamw(recipe.optim),
        tracks=recipe.track.read,
        data=_kind(loader),
        workers=recipe.data.workers,
        bucket=recipe.data.bucket,
        resident=recipe.data.resident,
        copy_ahead=recipe.data.copy_ahead,
        padding=_padding(loader, assembly.splits.train),
        convolutions=sum(isinstance(module, nn.Conv2d) for module in model.modules()),
        channels_last=recipe.channels_last,
        attention=recipe.attention,
        attends=_attends(model),
        blocks=len(repeated_blocks(model)),
        dropout=recipe.dropout,
        dropouts=sum(type(module) is nn.Dropout and module.p > 0 for module in model.modules()),
    )


def _adamw(optim: Any) -> Settings | None:
    if not isinstance(optim, AdamW) or optim.rules or optim.layer_decay is not None:
        return None
    given = {"lr": optim.lr, "betas": list(optim.betas), "eps": optim.eps, "weight_decay": optim.weight_decay}
    return tuple(f"optim.{name}={value}" for name, value in given.items())


def _cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _kind(loader: Any) -> Literal["memory", "samples", "stream"]:
    if isinstance(loader, IndexedLoader):
        return "memory"
    return "stream" if isinstance(loader, StreamLoader) else "samples"


def _padding(loader: Any, data: Any) -> float:
    """Return the share of a batch that is padding, where the data says how long its samples are."""
    lengths = getattr(data, "lengths", None)
    if lengths is None or not isinstance(getattr(loader, "order", None), ShuffledOrder):
        return 0.0
    lengths = torch.as_tensor(lengths)
    batches = [lengths[loader.order.batch(0, i)].float() for i in range(min(BATCHES, loader.order.batches_per_epoch))]
    return 1 - float(sum(b.sum() for b in batches)) / sum(len(b) * float(b.max()) for b in batches)


def _attends(model: nn.Module) -> bool:
    """Whether a module of the model is torch's attention, or its code calls torch's function of that name."""
    return any(
        isinstance(module, nn.MultiheadAttention)
        or "scaled_dot_product_attention" in getattr(type(module).forward, "__code__", _NONE).co_names
        for module in model.modules()
    )


_NONE = (lambda: None).__code__
