"""How a recipe's model is laid out and called: formats and layouts that keep its parameters and their names."""

from __future__ import annotations

import torch
from torch import nn

from lehr.base.errors import SettingError
from lehr.levers.channels_last import channels_last
from lehr.levers.low_precision import LowPrecision
from lehr.levers.recompute import recompute
from lehr.run.recipe import Recipe

__all__ = ["as_called", "lay_out"]


def lay_out(recipe: Recipe, model: nn.Module, device: torch.device) -> None:
    """Change, in place, in which layout the model computes and what it keeps for its backward pass."""
    if recipe.precision == "tf32" and device.type != "cuda":
        raise SettingError(
            f"precision=tf32 is a format of NVIDIA's processors, and the device is {device.type}; use fp32 or bf16"
        )
    if recipe.channels_last:
        if not any(parameter.ndim == 4 for parameter in model.parameters()):
            raise SettingError("channels_last=true has no effect: the model has no 2-d convolutions; leave it out")
        channels_last(model)
    recompute(model, recipe.recompute)


def as_called(recipe: Recipe, model: nn.Module, *, world: int) -> nn.Module:
    """Return the model as a step calls it: itself, or with its weights cast."""
    if recipe.precision != "bf16-weights":
        return model
    if world > 1:
        raise SettingError(f"precision=bf16-weights is not built for {world} processes; use precision=bf16")
    return LowPrecision(model)
