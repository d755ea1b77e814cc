"""Which layers of a model another layer can take the place of, and why not the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from lehr.base.errors import SettingError
from lehr.base.tables import did_you_mean
from lehr.lowrank.convolution import LowRankConv2d
from lehr.lowrank.lora import LoRALinear

__all__ = ["Candidate", "candidates", "has_hooks", "refuse_sharded"]

_SHARDING = {"FSDPModule", "FullyShardedDataParallel", "DistributedDataParallel"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A layer, and whether another one can take its place."""

    name: str
    """Its first name in the model."""
    kind: Literal["linear", "convolution"]
    """What it is."""
    shape: tuple[int, int]
    """Of its matrix: (out, in), or (out, in kh kw) of a kernel."""
    reason: str | None
    """Why it has to stay; None where it can be replaced."""


def candidates(
    model: nn.Module,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    min_size: int = 128,
    first_and_last: bool = False,
    frozen: bool = False,
) -> list[Candidate]:
    """Return every `nn.Linear` and `nn.Conv2d` of a model, each with the reason why it cannot be replaced, if any.

    ``include`` and ``exclude`` are patterns of names, with ``*``. Matrices with a side below ``min_size`` stay: at a
    rank of 10 % and on one CPU thread 128x128 ran 2.1 times as fast as the dense layer, 64x64 no faster. The last layer
    stays, and the first one if no embedding comes before it, unless ``first_and_last``; they are what a low rank harms
    most (Pufferfish, arXiv 2103.03936). ``frozen`` lets layers be replaced that do not train, for LoRA. Layers within
    those of this package are not listed, and projections of an `nn.MultiheadAttention` only once `split_attention` has
    made them layers.

    Raises: `SettingError` for a pattern that matches no layer, and for a model that is sharded (FSDP) or wrapped (DDP).

    >>> model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.Linear(256, 10))
    >>> for found in candidates(model):
    ...     print(found.name, found.shape, found.reason)
    0 (256, 256) it is the first layer, which is kept; first_and_last=True replaces it too
    2 (256, 256) None
    3 (10, 256) its smaller side is below min_size=128
    """
    refuse_sharded(model)
    modules = _outside(model)
    layers = {n: m for n, m in modules.items() if isinstance(m, nn.Linear | nn.Conv2d)}
    for pattern in (*(include or ()), *exclude):
        if not any(fnmatchcase(name, pattern) for name in layers):
            shown = ", ".join(list(layers)[:8]) or "none"
            raise SettingError(
                f"{pattern!r} matches no nn.Linear or nn.Conv2d of {type(model).__name__}"
                f"{did_you_mean(pattern, layers)}; its first ones: {shown}"
            )
    ends = {} if first_and_last else _ends(modules)
    holders = _holders(model)
    found = []
    for name, layer in layers.items():
        rows = layer.weight.shape[0] if not is_lazy(layer.weight) else 0
        shape = (rows, layer.weight[0].numel() if rows else 0)
        reason = (
            _chosen(name, include, exclude)
            or _structure(model, name, layer)
            or _weight(name, layer, holders)
            or ("hooks are on it, which another layer would not have" if has_hooks(layer) else None)
            or (None if frozen or layer.weight.requires_grad else "its weight is frozen")
            or (f"its smaller side is below min_size={min_size}" if min(shape) < min_size else None)
            or ends.get(name)
        )
        kind: Literal["linear", "convolution"] = "linear" if isinstance(layer, nn.Linear) else "convolution"
        found.append(Candidate(name=name, kind=kind, shape=shape, reason=reason))
    return found


def refuse_sharded(model: nn.Module) -> None:
    """Refuse a model whose parameters others hold in parts or watch: FSDP, tensor parallel, DDP.

    >>> refuse_sharded(nn.Linear(2, 2))
    """
    for name, module in model.named_modules():
        wrapper = next((base.__name__ for base in type(module).__mro__ if base.__name__ in _SHARDING), None)
        # by attribute: importing DTensor takes long, and a model that has one has imported it
        if wrapper is None and any(hasattr(p, "placements") for p in module.parameters(recurse=False)):
            wrapper = "DTensor"
        if wrapper is not None:
            raise SettingError(
                f"{name or type(model).__name__} is under {wrapper}, and layers of a model that is sharded or wrapped "
                "cannot be replaced; replace them first, and shard or wrap the model then"
            )


def has_hooks(module: nn.Module) -> bool:
    """Return whether forward or backward hooks are on a module, which another in its place would not have.

    >>> has_hooks(nn.Linear(2, 2))
    False
    """
    return any(getattr(module, hooks) for hooks in _HOOKS)


def _outside(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules by name, without those within layers of this package that are whole layers themselves."""
    inside = {
        id(child)
        for module in model.modules()
        if isinstance(module, LoRALinear | LowRankConv2d)
        for child in module.modules()
        if child is not module
    }
    return {name: module for name, module in model.named_modules() if id(module) not in inside}


def _ends(modules: dict[str, nn.Module]) -> dict[str, str]:
    """Return why the first and the last layer are kept; an embedding can be the first."""
    weighted = {n: m for n, m in modules.items() if getattr(m, "weight", None) is not None}
    kinds = (nn.Linear, nn.Conv2d, nn.Embedding)
    order = [name for name, module in weighted.items() if isinstance(module, kinds)]
    ends = zip(order[:1] + order[-1:], ("first", "last"), strict=False)
    return {name: f"it is the {end} layer, which is kept; first_and_last=True replaces it too" for name, end in ends}


def _holders(model: nn.Module) -> dict[int, list[tuple[str, nn.Module]]]:
    """Return for each parameter's id the modules that hold it."""
    held: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            held.setdefault(id(parameter), []).append((name, module))
    return held


def _chosen(name: str, include: Sequence[str] | None, exclude: Sequence[str]) -> str | None:
    if include is not None and not any(fnmatchcase(name, pattern) for pattern in include):
        return "no pattern of include matches it"
    if any(fnmatchcase(name, pattern) for pattern in exclude):
        return "a pattern of exclude matches it"
    return None


def _structure(model: nn.Module, name: str, layer: nn.Linear | nn.Conv2d) -> str | None:
    """Return what about the module itself stands against replacing it."""
    if not name:
        return "it is the model itself, which has no place to be replaced in"
    parent = model.get_submodule(name.rpartition(".")[0])
    if isinstance(parent, nn.MultiheadAttention):
        return "nn.MultiheadAttention reads its weight without calling it; split_attention makes layers of its parts"
    plain = nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d
    if parametrize.is_parametrized(layer):
        return "it is parametrized, and its weight follows from other parameters"
    if type(layer).forward is not plain.forward:
        return f"it is a {type(layer).__name__} with a forward of its own"
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        return f"it has {layer.groups} groups, each with a matrix of its own"
    return None


def _weight(name: str, layer: nn.Linear | nn.Conv2d, holders: dict[int, list[tuple[str, nn.Module]]]) -> str | None:
    """Return what about the weight stands against replacing it."""
    weight = layer.weight
    if not isinstance(layer._parameters.get("weight"), nn.Parameter):
        return "its weight is no parameter, but computed from others"
    if is_lazy(weight):
        return "it is lazy, and has no shape before its first forward pass"
    if weight.layout != torch.strided or not weight.is_floating_point():
        return "its weight is sparse or not of floating-point numbers"
    others = [(other, module) for other, module in holders[id(weight)] if module is not layer]
    tied = [other for other, module in others if isinstance(module, nn.Embedding)]
    if tied:
        return f"its weight is tied to the embedding {tied[0]!r}"
    return f"it shares its weight with {others[0][0]!r}" if others else None
