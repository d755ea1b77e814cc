"""Which rank each layer gets: under one budget for all, by energy, or as a fixed share."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lehr.base.errors import SettingError
from lehr.lowrank.cost import highest, parameters, rank_for_ratio, rounded
from lehr.lowrank.spectrum import energy_rank

__all__ = ["Option", "allocate", "options", "ranks_by_energy", "ranks_by_ratio"]

Shapes = Mapping[str, tuple[int, int]]
Ranks = dict[str, int | None]
"""The rank by layer; None: stays dense."""


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

    Greedy: the layers go up in rank by whichever next step gains the most energy for its cost. Steps are those of the
    upper hull of cost and energy, which keeps that optimal though the last step, to dense, may be a better bargain
    than those before it; the sum is short of the best one by less than the energy of one step (Sinha and Zoltners
    1979, the multiple-choice knapsack).

    Raises SettingError for a spectrum that is incomplete or not finite, and a budget that not even the lowest ranks
    meet, naming the lowest that can be met.

    >>> spectra = {"a": torch.tensor([4.0, 0.1, 0.1, 0.1] + 60 * [0.1]), "b": torch.ones(64)}
    >>> allocate(spectra, {"a": (64, 64), "b": (64, 64)}, budget=0.7)
    {'a': 8, 'b': None}
    """
    found = {
        name: options(spectrum, shapes[name], tokens=tokens[name] if tokens else 1, multiple=multiple, cap=cap)
        for name, spectrum in _checked(spectra, shapes).items()
    }
    hulls = {name: _upper_hull(choices) for name, choices in found.items()}
    dense = sum(choices[-1].cost for choices in found.values())
    left = budget * dense * (1 + 1e-12) - sum(hull[0].cost for hull in hulls.values())
    if left < 0:
        least = sum(hull[0].cost for hull in hulls.values()) / dense
        raise SettingError(f"budget={budget:g} is less than the lowest ranks take; use {least:.3g} or more, up to 1")
    place = dict.fromkeys(hulls, 0)
    steps = [(-_bargain(hull[0], hull[1]), name) for name, hull in hulls.items() if len(hull) > 1]
    heapq.heapify(steps)
    while steps:
        _, name = heapq.heappop(steps)
        hull, at = hulls[name], place[name]
        if (cost := hull[at + 1].cost - hull[at].cost) > left:
            continue  # a layer that cannot go on; cheaper steps of others may still fit
        left -= cost
        place[name] = at + 1
        if at + 2 < len(hull):
            heapq.heappush(steps, (-_bargain(hull[at + 1], hull[at + 2]), name))
    return {name: hulls[name][at].rank for name, at in place.items()}


def options(
    spectrum: Tensor, shape: tuple[int, int], *, tokens: float = 1, multiple: int = 8, cap: float = 0.7
) -> list[Option]:
    """Return what can be done with a layer, from the cheapest to dense.

    >>> [(option.rank, round(option.energy, 2)) for option in options(torch.ones(32), (32, 32))]
    [(8, 0.25), (None, 1.0)]
    """
    energy = spectrum.double().square().cumsum(0)
    shares = (energy / energy[-1] if energy[-1] > 0 else torch.ones_like(energy)).tolist()
    ranks = range(rounded(1, multiple), highest(*shape, cap) + 1, multiple)
    factored = [Option(tokens * parameters(*shape, rank), shares[rank - 1], rank) for rank in ranks]
    return [*factored, Option(tokens * parameters(*shape), 1.0, None)]


def _upper_hull(choices: list[Option]) -> list[Option]:
    """Return the choices on the upper convex hull, by which the energy gained per cost only falls."""
    hull: list[Option] = []
    for choice in choices:
        while len(hull) > 1 and _bargain(hull[-2], hull[-1]) <= _bargain(hull[-1], choice):
            hull.pop()
        hull.append(choice)
    return hull


def _bargain(before: Option, after: Option) -> float:
    return (after.energy - before.energy) / (after.cost - before.cost)


def ranks_by_energy(
    spectra: Mapping[str, Tensor], shapes: Shapes, *, energy: float = 0.95, multiple: int = 8, cap: float = 0.7
) -> Ranks:
    """Return for each layer the lowest rank that keeps a share of its energy, rounded up; None where over the cap.

    >>> ranks_by_energy({"a": torch.tensor([9.0] + 63 * [0.1]), "b": torch.ones(64)}, {"a": (64, 64), "b": (64, 64)})
    {'a': 8, 'b': None}
    """
    needed = {name: int(energy_rank(spectrum, energy)) for name, spectrum in _checked(spectra, shapes).items()}
    return {name: _capped(rounded(rank, multiple, up=True), shapes[name], cap) for name, rank in needed.items()}


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
