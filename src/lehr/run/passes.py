"""How a recipe's model is laid out and called: formats and layouts that keep its parameters and their names."""

from __future__ import annotations

import torch
from torch import nn

from lehr.base.errors import SettingError
from lehr.layers.packed_dropout import pack_dropout
from lehr.levers.channels_last import channels_last
from lehr.levers.fp8 import ADA, fp8
from lehr.levers.low_precision import LowPrecision
from lehr.levers.recompute import recompute
from lehr.optim.adamw_8bit import AdamW8bit
from lehr.run.recipe import Recipe

__all__ = ["as_called", "lay_out"]


def lay_out(recipe: Recipe, model: nn.Module, device: torch.device) -> None:
    """Change, in place, in which layout the model computes and what it keeps for its backward pass."""
    if recipe.precision == "tf32" and device.type != "cuda":
        raise SettingError(
            f"precision=tf32 is a format of NVIDIA's processors, and the device is {device.type}; use fp32 or bf16"
        )
    if recipe.precision == "fp8":
        _fp8(model, device)
    if recipe.attention in ("efficient", "cudnn") and device.type != "cuda":
        raise SettingError(
            f"attention={recipe.attention} is a kernel of CUDA devices, and the device is {device.type}; use "
            "flash, math or auto"
        )
    if recipe.compile == "reduce-overhead" and device.type != "cuda":
        raise SettingError(f"compile=reduce-overhead is CUDA graphs, and the device is {device.type}; use compile=true")
    if recipe.channels_last and isinstance(recipe.optim, AdamW8bit):
        raise SettingError(
            "channels_last=true does not go with optim=adamw_8bit, whose moments would not be the same after a resume; "
            "use optim=adamw, or leave channels_last out"
        )
    if recipe.channels_last:
        if not any(parameter.ndim == 4 for parameter in model.parameters()):
            raise SettingError("channels_last=true has no effect: the model has no 2-d convolutions; leave it out")
        channels_last(model)
    if recipe.dropout == "packed":
        _pack_dropout(recipe, model, device)
    recompute(model, recipe.recompute)


def _fp8(model: nn.Module, device: torch.device) -> None:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < ADA:
        raise SettingError(
            f"precision=fp8 needs a CUDA device of capability 8.9 or later, and the device is {device.type}; use bf16"
        )
    fp8(model)


def _pack_dropout(recipe: Recipe, model: nn.Module, device: torch.device) -> None:
    if device.type != "cpu":
        raise SettingError(
            f"dropout=packed is for CPUs, and the device is {device.type}, where torch's is one kernel; leave it out"
        )
    if recipe.compile or recipe.step == "whole":
        raise SettingError(
            "dropout=packed does not go with compile or step=whole: compiled code makes its draws itself; leave it out"
        )
    if not pack_dropout(model):
        raise SettingError(
            "dropout=packed has no effect: the model has no torch.nn.Dropout with a rate above 0; leave it out"
        )


def as_called(recipe: Recipe, model: nn.Module, *, world: int) -> nn.Module:
    """Return the model as a step calls it: itself, or with its weights cast."""
    if recipe.precision != "bf16-weights":
        return model
    if recipe.recompute != "nothing":
        raise SettingError(
            f"precision=bf16-weights does not go with recompute={recipe.recompute}: the cast weights are gone when the "
            "backward pass computes again; use precision=bf16, or recompute=nothing"
        )
    if world > 1:
        raise SettingError(f"precision=bf16-weights is not built for {world} processes; use precision=bf16")
    return LowPrecision(model)
