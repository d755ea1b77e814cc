"""Replacing layers of a model: by low-rank ones, back by dense ones, and by those that a checkpoint describes."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from lehr.base.errors import LehrWarning, NoEffectWarning, SettingError
from lehr.base.tables import did_you_mean
from lehr.lowrank.attention import SplitAttention, not_splittable
from lehr.lowrank.candidates import candidates, has_hooks, refuse_sharded
from lehr.lowrank.convolution import LowRankConv2d
from lehr.lowrank.four_tensor import FourTensorLinear
from lehr.lowrank.linear import LowRankLinear, check_rank
from lehr.lowrank.lora import LoRALinear

__all__ = ["KINDS", "described", "exchange", "low_rank", "make_dense", "rebuilt", "split_attention"]

KINDS: Mapping[str, tuple[Any, type[nn.Module]]] = {
    "LowRankLinear": (LowRankLinear, nn.Linear),
    "FourTensorLinear": (FourTensorLinear, nn.Linear),
    "LoRALinear": (LoRALinear, nn.Linear),
    "LowRankConv2d": (LowRankConv2d, nn.Conv2d),
    "SplitAttention": (SplitAttention, nn.MultiheadAttention),
}
"""The layers of this package by name, each with the dense layer whose place it takes."""


def exchange(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put ``module`` wherever the model has the module ``name``, in its mode and on its device; returns the old one.

    Raises: `SettingError` for a name that the model does not have, the model itself, a module with hooks, which would
    be lost, and a model that is sharded (FSDP) or wrapped (DDP).

    >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    >>> exchange(model, "0", LowRankLinear(8, 8, 2)), model[0]
    (Linear(in_features=8, out_features=8, bias=True), LowRankLinear(in_features=8, out_features=8, rank=2, bias=True))
    """
    refuse_sharded(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    if not name or name not in modules:
        known = ", ".join(list(modules)[1:9])
        wanted = f"has no module {name!r}{did_you_mean(name, modules)}" if name else "cannot be replaced in itself"
        raise SettingError(f"{type(model).__name__} {wanted}; its first modules: {known or 'none'}")
    old: nn.Module = modules[name]
    if has_hooks(old):
        raise SettingError(f"hooks are on {name}, and would be lost with it; remove them before it is replaced")
    module.train(old.training)
    held = next(old.parameters(), None)
    if held is not None:
        module.to(held.device)
    for parent in list(model.modules()):
        for child, own in list(parent._modules.items()):
            if own is old:
                setattr(parent, child, module)
    if isinstance(module, SplitAttention):
        for encoder in model.modules():
            if isinstance(encoder, nn.TransformerEncoder) and any(part is module for part in encoder.modules()):
                encoder.use_nested_tensor = False  # it would hand nested tensors to packed weights that are gone
    return old


def split_attention(model: nn.Module, *, put: Callable[[Mapping[str, nn.Module]], None] | None = None) -> list[str]:
    """Replace each `nn.MultiheadAttention` by a `SplitAttention`, by ``put`` or by `exchange`; returns their names.

    Those that cannot be split stay, with a warning: what `not_splittable` names, hooks, which would be lost, and packed
    weights that others share, which would no longer be one.

    >>> model = nn.TransformerEncoderLayer(8, 2)
    >>> split_attention(model), model.self_attn.q_proj
    (['self_attn'], Linear(in_features=8, out_features=8, bias=True))
    """
    refuse_sharded(model)
    holders = Counter(id(p) for module in model.modules() for p in module._parameters.values())
    made: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            shared = any(p is not None and holders[id(p)] > 1 for p in module._parameters.values())
            reason = not_splittable(module) or ("shared weights" if shared else "hooks" if has_hooks(module) else None)
            if reason is not None:
                warnings.warn(f"{name or 'the model'} has {reason} and is not split", LehrWarning, stacklevel=2)
            else:
                made[name] = SplitAttention.from_multihead(module)
    if put is not None:
        put(made)
    else:
        for name, attention in made.items():
            exchange(model, name, attention)
    return list(made)


def low_rank(
    model: nn.Module,
    *,
    rank: int | Mapping[str, int] | None = None,
    ratio: float | None = None,
    names: Sequence[str] | None = None,
    make: Callable[[nn.Linear, int], nn.Module] = LowRankLinear.from_linear,
) -> dict[str, int]:
    """Replace layers by low-rank ones, all at once; returns their ranks by name.

    The rank is the same for all, or one for each name, or ``ratio`` of each smaller side, rounded down, at least 1.
    ``names`` are the layers; all that `candidates` finds no reason against if not given. ``make`` is called with a
    linear layer and its rank: ``FourTensorLinear.from_linear``, ``LoRALinear.from_linear``, or a function that also
    gives a balance. Convolutions become `LowRankConv2d`. On a model that has not been trained this is spectral
    initialization; without norms between many layers, let the factors then keep the weights' norm:
    ``functools.partial(LowRankLinear.from_linear, keep_norm=True)``.

    Raises: `SettingError` for a rank at or over the break-even of a layer, and for a name that is no such layer or has
    a weight that others use.

    >>> model = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 256), nn.Linear(256, 10))
    >>> low_rank(model, ratio=0.1)
    {'2': 25}
    """
    if (rank is None) == (ratio is None):
        raise SettingError(f"rank={rank} and ratio={ratio}; give exactly one of them")
    if ratio is not None and not 0 < ratio < 1:
        raise SettingError(f"ratio={ratio:g} of the smaller side; use more than 0 and less than 1, such as 0.1")
    if isinstance(rank, Mapping):
        if names is not None:
            raise SettingError("ranks by name say which layers they are for; leave names out")
        names = list(rank)
    ranks: dict[str, int] = {}
    made: dict[str, nn.Module] = {}
    for name, shape in _shapes(model, names).items():
        ranks[name] = _rank(name, min(shape), rank, ratio)
        check_rank(ranks[name], *shape)
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Conv2d):
            made[name] = LowRankConv2d.from_conv(layer, ranks[name])
        elif isinstance(layer, nn.Linear):
            made[name] = make(layer, ranks[name])
    if not made:
        warnings.warn(
            f"low_rank changed nothing: no layer of {type(model).__name__} can be replaced; candidates says why",
            NoEffectWarning,
            stacklevel=2,
        )
    for name, replacement in made.items():
        exchange(model, name, replacement)
    return ranks


def _shapes(model: nn.Module, names: Sequence[str] | None) -> dict[str, tuple[int, int]]:
    """Return the matrices' shapes of the layers named, or of all that may be replaced."""
    if names is None:
        return {found.name: found.shape for found in candidates(model) if found.reason is None}
    known = {found.name: found for found in candidates(model, min_size=1, first_and_last=True, frozen=True)}
    for name in names:
        if name not in known:
            raise SettingError(
                f"{name!r} is no nn.Linear or nn.Conv2d of {type(model).__name__}{did_you_mean(name, known)}; its "
                f"first ones: {', '.join(list(known)[:8]) or 'none'}"
            )
        if known[name].reason is not None:
            raise SettingError(f"{name} cannot be replaced: {known[name].reason}")
    return {name: known[name].shape for name in names}


def _rank(name: str, smaller: int, rank: int | Mapping[str, int] | None, ratio: float | None) -> int:
    if isinstance(rank, Mapping):
        return rank[name]
    if rank is not None:
        return rank
    assert ratio is not None
    return max(1, int(smaller * ratio))


def make_dense(model: nn.Module) -> list[str]:
    """Replace the layers of this package by dense ones with the same function; returns their names.

    >>> model = nn.Sequential(LowRankLinear(8, 8, 2))
    >>> make_dense(model), model
    (['0'], Sequential(
      (0): Linear(in_features=8, out_features=8, bias=True)
    ))
    """
    outermost: dict[str, nn.Module] = {}
    for name in described(model):
        if not any(name.startswith(f"{other}.") for other in outermost):
            outermost[name] = rebuilt(model.get_submodule(name), {"kind": "dense"})
    for name, layer in outermost.items():
        exchange(model, name, layer)
    return list(outermost)


def described(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return what each layer of this package in a model is, by name, in plain values: what `rebuilt` makes it from.

    An attention comes before the layers within it.

    >>> described(nn.Sequential(LowRankLinear(8, 8, 2), nn.ReLU()))
    {'0': {'kind': 'LowRankLinear', 'rank': 2}}
    """
    return {
        name: {"kind": kind} | module.describe()
        for name, module in model.named_modules()
        for kind, (own, _) in KINDS.items()
        if type(module) is own
    }


def rebuilt(module: nn.Module, description: Mapping[str, Any]) -> nn.Module:
    """Return a layer as described, with the sizes, mode and device of ``module``, for weights to be loaded into it.

    ``module`` is the dense layer or any of this package for it. For the kind "dense" it is the dense layer with the
    function of ``module``. Parameters that both have, such as a bias, stay the same ones.

    Raises: `SettingError` for a kind that is unknown, or not one for this module.

    >>> rebuilt(nn.Linear(8, 4), {"kind": "LowRankLinear", "rank": 2})
    LowRankLinear(in_features=8, out_features=4, rank=2, bias=True)
    """
    kind = description["kind"]
    if kind != "dense" and kind not in KINDS:
        raise SettingError(
            f"unknown kind of layer {kind!r}{did_you_mean(kind, KINDS)}; known: dense, {', '.join(KINDS)}"
        )
    made = dense = _dense(module)
    if kind != "dense":
        own, needed = KINDS[kind]
        if not isinstance(dense, needed):
            raise SettingError(f"a {kind} takes the place of an {needed.__name__}, not of a {type(module).__name__}")
        made = own.blank(dense, **{key: value for key, value in description.items() if key != "kind"})
    return made.train(module.training)


def _dense(module: nn.Module) -> nn.Module:
    if any(type(module) is own for own, _ in KINDS.values()):
        dense: nn.Module = module.to_dense()  # type: ignore[operator]
        return dense
    return module
