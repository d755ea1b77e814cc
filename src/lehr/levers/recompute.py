"""Activations that are computed again in the backward pass in place of being kept: memory for time."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from lehr.base.errors import SettingError
from lehr.levers.blocks import repeated_blocks
from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["RECOMPUTE", "How", "recompute"]

How = Literal["nothing", "blocks", "cheap"]

_aten = torch.ops.aten
_PRODUCTS = [
    _aten.mm.default,
    _aten.bmm.default,
    _aten.addmm.default,
    _aten.convolution.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
]
"""What is dear to compute: kept where only the cheap is computed again."""


def recompute(model: nn.Module, how: How) -> nn.Module:
    """Let the model's repeated blocks compute their activations again in the backward pass, in place.

    "blocks" keeps each block's input only: memory grows with one block instead of all, and a forward pass is made
    twice. "cheap" keeps the results of products too, and computes only the rest again. Dropout draws the same numbers
    in both. Names of parameters stay. Source: Chen et al. 2016 (arXiv 1604.06174). Raises SettingError for a model
    without repeated blocks, and for blocks that collect statistics.

    >>> model = recompute(nn.Sequential(*(nn.Sequential(nn.Linear(2, 2)) for _ in "ab")), "blocks")
    >>> model(torch.ones(1, 2)).sum().backward(); model[0][0].weight.grad is not None
    True
    """
    if how == "nothing":
        return model
    blocks = repeated_blocks(model)
    if not blocks:
        raise SettingError(
            f"recompute={how} needs a model with repeated blocks, and {type(model).__name__} has none; use "
            "recompute=nothing, or torch.utils.checkpoint in the model"
        )
    collecting = next((b for b in blocks if any(name in b.state_dict() for name, _ in b.named_buffers())), None)
    if collecting is not None:
        raise SettingError(
            f"recompute={how} is not possible for {type(model).__name__}: its blocks collect statistics (batch norm), "
            "which a second pass would count twice; use recompute=nothing, or another norm"
        )
    more: dict[str, Any] = {}
    if how == "cheap":
        more["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _PRODUCTS)
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False, **more)
    return model


def _options(setup: Setup) -> Sequence[Settings]:
    if not setup.blocks:
        raise NotHere("the model has no repeated blocks")
    raise NotHere("it saves memory and costs time; set recompute=blocks or recompute=cheap where memory runs out")


RECOMPUTE = Lever(
    name="recompute",
    summary="activations computed again in the backward pass: memory for time",
    shortens=(),
    options=_options,
)
