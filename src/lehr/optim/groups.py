"""Parameter groups: decay by the type of the module that owns a parameter; rates and the rest by rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lehr.optim.depth import depths, layer_scales
from lehr.optim.rules import Rule, treatments

__all__ = ["owners", "ruled_groups", "split_by_decay"]

_NOT_DECAYED = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase)


def owners(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Return for each trainable parameter, under its first name, all modules that hold it (several when it is tied).

    >>> sorted(owners(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))))
    ['0.bias', '0.weight', '1.bias', '1.weight']
    """
    name_of = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
    held: dict[str, list[nn.Module]] = {name: [] for name in name_of.values()}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None and parameter in name_of:
                held[name_of[parameter]].append(module)
    return held


def split_by_decay(model: nn.Module, names: Iterable[str] | None = None) -> tuple[list[str], list[str]]:
    """Return the names to decay and not to decay: matrices and kernels, against biases, norms and embeddings.

    A parameter decays when it has at least two dimensions, is no bias of an attention, and neither an embedding nor a
    norm holds it; other biases, and the gains of a norm of your own, have one dimension. ``names`` limits the answer to
    some parameters.

    >>> split_by_decay(nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 2), nn.LayerNorm(2)))
    (['1.weight'], ['0.weight', '1.bias', '2.weight', '2.bias'])
    """
    held = owners(model)
    parameters = dict(model.named_parameters())
    wanted = list(held) if names is None else [name for name in held if name in set(names)]
    decayed = [
        name
        for name in wanted
        if parameters[name].ndim >= 2 and not any(_keeps(owner, parameters[name]) for owner in held[name])
    ]
    return decayed, [name for name in wanted if name not in set(decayed)]


def _keeps(owner: nn.Module, parameter: nn.Parameter) -> bool:
    """Whether a module holds a parameter that is not to decay, whatever its shape."""
    if isinstance(owner, nn.MultiheadAttention):  # its biases of keys and values are (1, 1, width)
        return parameter is owner.bias_k or parameter is owner.bias_v
    return isinstance(owner, _NOT_DECAYED)


def ruled_groups(
    model: nn.Module,
    names: Iterable[str] | None = None,
    *,
    lr: float,
    weight_decay: float,
    rules: Sequence[Rule] = (),
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Return groups for an optimizer: with decay and without, parted further by ``rules`` and ``layer_decay``.

    Each group has its own ``lr``: the base rate times the rule's and the layer's factor. A schedule that multiplies
    each group's rate keeps their ratios. Every trainable parameter is in exactly one group. The groups at the base rate
    come first, then the others from high to low.

    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1))
    >>> groups = ruled_groups(model, lr=1, weight_decay=3, layer_decay=0.5)
    >>> [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups]
    [(1.0, 3, 1), (1.0, 0.0, 1), (0.5, 3, 1)]
    """
    plan = treatments(model, rules)
    scale_of = dict.fromkeys(plan, 1.0) if layer_decay is None else layer_scales(depths(model), layer_decay)
    parameters = dict(model.named_parameters())
    groups: dict[tuple[float, bool, float], list[nn.Parameter]] = {}
    for part, kept in zip(split_by_decay(model, names), (False, True), strict=True):
        for name in part:
            decay = plan[name].weight_decay
            decay = (0.0 if kept else weight_decay) if decay is None else decay
            groups.setdefault((scale_of[name] * plan[name].rate, kept, decay), []).append(parameters[name])
    order = sorted(groups, key=lambda key: (key[0] != 1, -key[0], key[1]))
    return [{"params": groups[key], "lr": lr * key[0], "weight_decay": key[2]} for key in order]
