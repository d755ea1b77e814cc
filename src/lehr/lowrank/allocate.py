"""Which rank each layer gets: under one budget for all, by energy, or as a fixed share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from torch import Tensor

from lehr.base.errors import SettingError
from lehr.lowrank.cost import highest, parameters, rank_for_ratio, rounded
from lehr.lowrank.spectrum import energy_rank

__all__ = ["RESOLUTION", "Option", "allocate", "options", "ranks_by_energy", "ranks_by_ratio"]

Shapes = Mapping[str, tuple[int, int]]
Ranks = dict[str, int | None]
"""The rank by layer; None: stays dense."""

RESOLUTION = 1 << 14
"""Parts that a budget is cut into."""


class Option(NamedTuple):
    """One thing to do with a layer."""

    cost: float
    """What it keeps of parameters, or of operations where these are weighted by positions."""
    energy: float
    """Share of the layer's energy that it keeps."""
    rank: int | None
    """None: dense."""


def allocate(
    spectra: Mapping[str, Tensor],
    shapes: Shapes,
    *,
    budget: float,
    tokens: Mapping[str, float] | None = None,
    multiple: int = 8,
    cap: float = 0.7,
) -> Ranks:
    """Return the ranks that keep the most energy, summed over layers as shares of each one's own, within a budget.

    ``spectra`` are all min(out, in) singular values of each layer, of the weight or of what it does to its inputs
    (`weighted_spectrum`); ``shapes`` are (out, in). ``budget`` is the share of the dense parameters that all these
    layers may keep together, or of the dense operations where ``tokens`` says how many positions each layer sees. A
    rank is a multiple of ``multiple`` and at most ``cap`` of the break-even rank; beyond that a layer stays dense.

    This is the multiple-choice knapsack, solved by dynamic programming over `RESOLUTION` parts of the budget: nothing
    better exists for a budget smaller by that part per layer. Going up by the most energy per cost, step by step, is
    not optimal here: the step to dense may be a better bargain than those before it, and then cannot be afforded.

    Raises SettingError for a spectrum that is incomplete or not finite, and a budget that not even the lowest ranks
    meet, naming the lowest that can be met.

    >>> import torch
    >>> spectra = {"a": torch.tensor([4.0] + 63 * [0.1]), "b": torch.ones(64)}
    >>> allocate(spectra, {"a": (64, 64), "b": (64, 64)}, budget=0.7)
    {'a': 8, 'b': None}
    """
    found = {
        name: options(spectrum, shapes[name], tokens=tokens[name] if tokens else 1, multiple=multiple, cap=cap)
        for name, spectrum in _checked(spectra, shapes).items()
    }
    dense = sum(choices[-1].cost for choices in found.values())
    least = sum(choices[0].cost for choices in found.values())
    if least > budget * dense * (1 + 1e-12):
        raise SettingError(
            f"budget={budget:g} is less than the lowest ranks take; use {least / dense:.3g} or more, up to 1"
        )
    chosen = _knapsack(list(found.values()), budget * dense - least)
    return {name: option.rank for name, option in zip(found, chosen, strict=True)}


def _knapsack(layers: list[list[Option]], extra: float) -> list[Option]:
    """Return one option per layer: the most energy in all, for at most ``extra`` over what the first ones cost."""
    most = np.zeros(RESOLUTION + 1)  # by the parts spent so far
    taken = []
    for choices in layers:
        before, most, which = most, np.full_like(most, -np.inf), np.zeros(len(most), dtype=np.int32)
        for place, option in enumerate(choices):
            parts = _parts(option.cost - choices[0].cost, extra)
            if parts <= RESOLUTION:
                reached = before[: len(before) - parts] + option.energy
                better = reached > most[parts:]
                most[parts:][better], which[parts:][better] = reached[better], place
        taken.append(which)
    left, chosen = RESOLUTION, []
    for choices, which in zip(reversed(layers), reversed(taken), strict=True):
        option = choices[which[left]]
        left -= _parts(option.cost - choices[0].cost, extra)
        chosen.append(option)
    return chosen[::-1]


def _parts(cost: float, extra: float) -> int:
    """Return how many parts of the budget a cost is, rounded up so that the sum stays within."""
    if cost <= 0:
        return 0
    return math.ceil(min(cost / extra, 2.0) * RESOLUTION * (1 - 1e-12)) if extra > 0 else RESOLUTION + 1


def options(
    spectrum: Tensor, shape: tuple[int, int], *, tokens: float = 1, multiple: int = 8, cap: float = 0.7
) -> list[Option]:
    """Return what can be done with a layer, from the cheapest to dense; of zeros, as before training, only dense.

    >>> import torch
    >>> [(option.rank, round(option.energy, 2)) for option in options(torch.ones(32), (32, 32))]
    [(8, 0.25), (None, 1.0)]
    """
    energy = spectrum.double().square().cumsum(0)
    if not energy[-1] > 0:
        return [Option(tokens * parameters(*shape), 1.0, None)]
    shares = (energy / energy[-1]).tolist()
    ranks = range(rounded(1, multiple), highest(*shape, cap) + 1, multiple)
    factored = [Option(tokens * parameters(*shape, rank), shares[rank - 1], rank) for rank in ranks]
    return [*factored, Option(tokens * parameters(*shape), 1.0, None)]


def ranks_by_energy(
    spectra: Mapping[str, Tensor], shapes: Shapes, *, energy: float = 0.95, multiple: int = 8, cap: float = 0.7
) -> Ranks:
    """Return for each layer the lowest rank that keeps a share of its energy, rounded up; None where over the cap.

    None, too, for a layer of zeros, which says nothing about its rank.

    >>> import torch
    >>> ranks_by_energy({"a": torch.tensor([9.0] + 63 * [0.1]), "b": torch.ones(64)}, {"a": (64, 64), "b": (64, 64)})
    {'a': 8, 'b': None}
    """
    return {
        name: _capped(rounded(int(energy_rank(spectrum, energy)), multiple, up=True), shapes[name], cap)
        if spectrum.any()
        else None
        for name, spectrum in _checked(spectra, shapes).items()
    }


def ranks_by_ratio(shapes: Shapes, *, ratio: float, multiple: int = 8, cap: float = 0.7) -> Ranks:
    """Return for each layer the rank that is ``ratio`` of its smaller side, rounded; None where over the cap.

    >>> ranks_by_ratio({"up": (3072, 768), "head": (16, 768)}, ratio=0.1)
    {'up': 80, 'head': 8}
    """
    found = {name: rounded(rank_for_ratio(*shape, ratio), multiple) for name, shape in shapes.items()}
    return {name: _capped(rank, shapes[name], cap) for name, rank in found.items()}


def _capped(rank: int, shape: tuple[int, int], cap: float) -> int | None:
    return rank if rank <= highest(*shape, cap) else None


def _checked(spectra: Mapping[str, Tensor], shapes: Shapes) -> Mapping[str, Tensor]:
    for name, spectrum in spectra.items():
        size = min(shapes[name])
        if spectrum.shape != (size,):
            raise SettingError(
                f"{tuple(spectrum.shape)} singular values of layer {name!r}, which is {shapes[name][0]}x"
                f"{shapes[name][1]}; all {size} are needed, since the budget goes by shares of their sum"
            )
        if not spectrum.isfinite().all():
            raise SettingError(f"the singular values of layer {name!r} are not finite; look at its weight and inputs")
    return spectra
