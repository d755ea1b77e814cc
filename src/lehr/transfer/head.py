"""A new output layer on a trained model."""

from __future__ import annotations

import math

import torch
from torch import nn

from lehr.base.errors import SettingError

__all__ = ["replace_head"]


def replace_head(
    model: nn.Module, num_classes: int, *, name: str | None = None, generator: torch.Generator | None = None
) -> str:
    """Put a new `nn.Linear` with ``num_classes`` outputs in the place of the last one; returns its name.

    "Last" is by the order in which modules were registered; ``name`` names another. The new layer has a bias where the
    old one has, is trainable, and has torch's initialization for linear layers: U(-1/√n, 1/√n) for n inputs, drawn
    from ``generator``, or from the global one. Call it where the model is made, so that the optimizer gets the new
    layer. Raises `SettingError` where there is no such layer.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1000))
    >>> replace_head(model, 3, generator=torch.Generator().manual_seed(0)), model[2]
    ('2', Linear(in_features=8, out_features=3, bias=True))
    """
    if num_classes < 1:
        raise SettingError(f"num_classes={num_classes}; a head needs 1 output or more")
    linear = {n: module for n, module in model.named_modules() if isinstance(module, nn.Linear)}
    if name is None:
        name = next(reversed(linear), None)
    if name is None or name not in linear:
        wanted = f"has no nn.Linear {name!r}" if name is not None else "has no nn.Linear to replace"
        raise SettingError(f"{type(model).__name__} {wanted}; its nn.Linear modules: {', '.join(linear) or 'none'}")
    if name == "":
        raise SettingError("the model is an nn.Linear itself, which cannot be replaced in place; make another one")
    old = linear[name]
    # without torch's own draws, which would move the global generator
    new: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear,
        old.in_features,
        num_classes,
        bias=old.bias is not None,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    bound = 1 / math.sqrt(old.in_features)
    for parameter in new.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    new.train(old.training)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
    return name
