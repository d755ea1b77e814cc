"""Parameters that take the place of others in an optimizer, in the same groups and under the same settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lehr.lowrank import frobenius_decay_
from lehr.optim.sgd import begin_velocities

__all__ = ["decay_products", "exchange_parameters"]


def exchange_parameters(
    optimizers: Sequence[torch.optim.Optimizer],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    *,
    factors: bool = False,
    frobenius: bool = False,
    factor_rate: float = 1.0,
) -> None:
    """Put the parameters ``after`` into the groups of those ``before`` that are gone, whose state is dropped.

    A new matrix joins the group that the first gone matrix was in, a new vector that of the first gone vector.
    Parameters without gradient join none. ``factors`` says that the new matrices are two factors, U and V: an optimizer
    that takes factors as such gets them in a copy of that group, with the entry ``factors``. With ``frobenius`` the
    copy is without weight decay, and its entry ``frobenius`` is the decay that the product is to have. The entry
    ``factor_rate`` is what the rate of factors is to be multiplied by; an optimizer that takes factors as such, and
    moves their product, gets none.

    >>> old, new = torch.zeros(4, 4), [torch.zeros(4, 1, requires_grad=True) for _ in "UV"]
    >>> optimizer = torch.optim.AdamW([old], lr=0.1, weight_decay=0.5)
    >>> exchange_parameters([optimizer], {"weight": old}, {"U": new[0], "V": new[1]}, factors=True, frobenius=True)
    >>> [(len(g["params"]), g["weight_decay"], g["frobenius"]) for g in optimizer.param_groups]
    [(2, 0.0, 0.5)]
    """
    stay = {id(p) for p in after.values() if p.requires_grad}
    gone = [p for p in before.values() if id(p) not in stay]
    fresh = [p for p in after.values() if p.requires_grad and all(p is not old for old in before.values())]
    homes = {
        p.ndim >= 2: (optimizer, group)
        for p in reversed(gone)
        for optimizer in optimizers
        for group in optimizer.param_groups
        if _holds(group, p)
    }
    for parameter in fresh:
        matrix = parameter.ndim >= 2
        if home := homes.get(matrix, next(iter(homes.values()), None)):
            pair = factors and matrix
            _group(*home, factors=pair, frobenius=pair and frobenius, factor_rate=factor_rate)["params"].append(
                parameter
            )
    for optimizer in optimizers:
        begin_velocities(optimizer)
        for parameter in gone:
            optimizer.state.pop(parameter, None)
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if p is not parameter]
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def _holds(group: Mapping[str, Any], parameter: Tensor) -> bool:
    return any(p is parameter for p in group["params"])


_OF_FACTORS = frozenset({"factors", "frobenius", "factor_rate"})
"""Entries of groups of factors that those of other parameters do not have."""


def _group(
    optimizer: torch.optim.Optimizer, home: dict[str, Any], *, factors: bool, frobenius: bool, factor_rate: float
) -> dict[str, Any]:
    """Return the group with the settings of ``home`` for such parameters; made if need be."""
    decay = home.get("frobenius", home.get("weight_decay", 0.0))
    wanted = {key: value for key, value in home.items() if key != "params" and key not in _OF_FACTORS}
    if "weight_decay" in home:
        wanted["weight_decay"] = 0.0 if frobenius else decay
    if factors and getattr(optimizer, "takes_factors", False):
        wanted["factors"] = True
    elif factors and factor_rate != 1:
        wanted["factor_rate"] = factor_rate
    if frobenius and decay:
        wanted["frobenius"] = decay
    for group in optimizer.param_groups:
        if {key: value for key, value in group.items() if key != "params"} == wanted:
            return group
    optimizer.param_groups.append(wanted | {"params": []})
    return optimizer.param_groups[-1]


def decay_products(groups: Sequence[Mapping[str, Any]]) -> None:
    """Decay the products of the factors in ``groups`` in place, by ``lr * frobenius`` of each, as AdamW decays.

    A group holds U and V of one layer after another, as `exchange_parameters` puts them there; the rate is the one of
    this step. By `lehr.lowrank.frobenius_decay_`.
    """
    for group in groups:
        factors = group["params"]
        for U, V in zip(factors[::2], factors[1::2], strict=True):
            frobenius_decay_(U, V, float(group["lr"]) * group["frobenius"])
