"""Ranks under a budget: against all combinations on small cases, the cap, and the two simpler rules."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lehr.base.errors import SettingError
from lehr.lowrank.allocate import RESOLUTION, allocate, options, ranks_by_energy, ranks_by_ratio

Layers = dict[str, tuple[tuple[int, int], Tensor]]


def spectrum(size: int, decay: float, scale: float = 1.0) -> Tensor:
    return scale * torch.arange(1, size + 1, dtype=torch.float64) ** -decay


def kept(S: Tensor, rank: int | None) -> float:
    """Return the share of energy, computed apart from what is tested."""
    return 1.0 if rank is None else sum(s * s for s in S.tolist()[:rank]) / sum(s * s for s in S.tolist())


def cost(shape: tuple[int, int], rank: int | None, tokens: float) -> float:
    return tokens * (shape[0] * shape[1] if rank is None else rank * (shape[0] + shape[1]))


def best(layers: Layers, tokens: dict[str, float], budget: float, cap: float) -> float | None:
    """Return the most energy that any combination of allowed ranks keeps within the budget."""
    choices = [
        [*[r for r in range(4, min(shape) + 1, 4) if r <= cap * shape[0] * shape[1] / sum(shape)], None]
        for shape, _ in layers.values()
    ]
    most = None
    total = sum(cost(shape, None, tokens[name]) for name, (shape, _) in layers.items())
    for ranks in itertools.product(*choices):
        pairs = list(zip(layers.items(), ranks, strict=True))
        if sum(cost(shape, rank, tokens[name]) for (name, (shape, _)), rank in pairs) <= budget * total:
            energy = sum(kept(S, rank) for (_, (_, S)), rank in pairs)
            most = energy if most is None else max(most, energy)
    return most


layer = st.tuples(
    st.tuples(st.sampled_from([16, 24, 32, 48]), st.sampled_from([16, 24, 32, 48])), st.floats(0, 2), st.floats(0.1, 9)
)


@settings(deadline=None)
@given(st.lists(st.tuples(layer, st.sampled_from([1, 3, 10])), min_size=1, max_size=3), st.floats(0.05, 1))
def test_no_combination_keeps_more(drawn: list, budget: float) -> None:
    layers: Layers = {}
    tokens = {}
    for place, ((shape, decay, scale), seen) in enumerate(drawn):
        layers[f"{place}"] = shape, spectrum(min(shape), decay, scale)
        tokens[f"{place}"] = seen
    shapes = {name: shape for name, (shape, _) in layers.items()}
    spectra = {name: S for name, (_, S) in layers.items()}
    most = best(layers, tokens, budget * (1 + 1e-9), 0.7)  # what is left to rounding below
    if most is None:
        with pytest.raises(SettingError, match="less than the lowest ranks take"):
            allocate(spectra, shapes, budget=budget, tokens=tokens, multiple=4)
        return
    ranks = allocate(spectra, shapes, budget=budget, tokens=tokens, multiple=4)
    total = sum(cost(shapes[name], None, tokens[name]) for name in layers)
    assert sum(cost(shapes[name], rank, tokens[name]) for name, rank in ranks.items()) <= budget * total * (1 + 1e-9)
    got = sum(kept(spectra[name], rank) for name, rank in ranks.items())
    assert got <= most + 1e-9
    smaller = best(layers, tokens, budget - len(layers) * budget / RESOLUTION, 0.7)
    assert smaller is None or got >= smaller - 1e-9


def test_layers_that_need_it_get_the_rank() -> None:
    shapes = dict.fromkeys("abc", (128, 128))
    spectra = {"a": spectrum(128, 2.0), "b": spectrum(128, 0.6), "c": spectrum(128, 1.0)}
    ranks = allocate(spectra, shapes, budget=0.4)
    assert all(rank is not None and rank % 8 == 0 and rank <= 0.7 * 64 for rank in ranks.values())
    assert ranks["a"] < ranks["c"] <= ranks["b"]
    assert allocate({n: 1e-6 * S for n, S in spectra.items()}, shapes, budget=0.4) == ranks


def test_positions_weigh_what_a_layer_costs() -> None:
    shapes = dict.fromkeys("ab", (128, 128))
    spectra = dict.fromkeys("ab", spectrum(128, 1.0))
    ranks = allocate(spectra, shapes, budget=0.3, tokens={"a": 1000, "b": 10})
    assert ranks["a"] is not None
    assert ranks["b"] is None or ranks["b"] > ranks["a"]


def test_many_layers_are_no_trouble() -> None:
    shapes = {f"{place}": (768, 768) for place in range(96)}
    spectra = {name: spectrum(768, 0.3 + 0.02 * place) for place, name in enumerate(shapes)}
    ranks = allocate(spectra, shapes, budget=0.3)
    spent = sum(cost((768, 768), rank, 1) for rank in ranks.values()) / (96 * 768 * 768)
    assert 0.29 < spent <= 0.3


def test_a_flat_layer_stays_dense_and_the_others_pay_for_it() -> None:
    """Steps from rank to rank, each by what it gains, would never come to that."""
    shapes = dict.fromkeys("abcd", (64, 64))
    spectra = {"a": torch.ones(64), **{name: spectrum(64, 1.5) for name in "bcd"}}
    ranks = allocate(spectra, shapes, budget=0.45)
    assert ranks["a"] is None and all(ranks[name] is not None for name in "bcd")
    assert [option.rank for option in options(torch.ones(64), (64, 64))] == [8, 16, None]


def test_everything_stays_dense_under_a_budget_of_one() -> None:
    shapes = {"a": (64, 64), "small": (8, 8)}
    spectra = {"a": spectrum(64, 1.0), "small": spectrum(8, 1.0)}
    assert allocate(spectra, shapes, budget=1.0) == {"a": None, "small": None}
    assert allocate({}, {}, budget=0.5) == {}


def test_a_layer_of_zeros_says_nothing_and_stays_dense() -> None:
    shapes, spectra = dict.fromkeys("ab", (64, 64)), {"a": torch.zeros(64), "b": spectrum(64, 1.5)}
    ranks = allocate(spectra, shapes, budget=0.7)
    assert ranks["a"] is None and ranks["b"] is not None
    assert ranks_by_energy(spectra, shapes, energy=0.9)["a"] is None


def test_a_budget_that_cannot_be_met_names_the_least() -> None:
    shapes = {"a": (64, 64), "small": (8, 8)}
    spectra = {"a": spectrum(64, 1.0), "small": spectrum(8, 1.0)}
    with pytest.raises(SettingError, match=r"use 0\.262 or more"):  # (8 * 128 + 64) / (4096 + 64)
        allocate(spectra, shapes, budget=0.2)


@pytest.mark.parametrize(
    ("S", "said"), [(torch.ones(5), "all 8 are needed"), (torch.full((8,), torch.nan), "layer 'a' are not finite")]
)
def test_spectra_that_say_too_little_are_refused(S: Tensor, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        allocate({"a": S}, {"a": (8, 16)}, budget=0.5)
    with pytest.raises(SettingError, match=said):
        ranks_by_energy({"a": S}, {"a": (8, 16)})


@settings(deadline=None)
@given(st.floats(0.3, 2.5), st.floats(0.5, 0.99), st.sampled_from([1, 8, 16]))
def test_ranks_by_energy_keep_it(decay: float, energy: float, multiple: int) -> None:
    S = spectrum(96, decay)
    rank = ranks_by_energy({"a": S}, {"a": (96, 200)}, energy=energy, multiple=multiple)["a"]
    if rank is None:
        least = next(r for r in range(1, 97) if kept(S, r) >= energy)
        assert least + multiple > 0.7 * 96 * 200 / 296
    else:
        assert rank % multiple == 0 and rank <= 0.7 * 96 * 200 / 296
        assert kept(S, rank) >= energy - 1e-12
        assert rank == multiple or kept(S, rank - multiple) < energy


def test_ranks_by_ratio() -> None:
    shapes = {"q": (768, 768), "up": (3072, 768), "half": (512, 512)}
    assert ranks_by_ratio(shapes, ratio=0.1, multiple=1) == {"q": 76, "up": 76, "half": 51}
    assert ranks_by_ratio(shapes, ratio=0.5) == {"q": None, "up": 384, "half": None}
    with pytest.raises(SettingError, match="cap=1"):
        ranks_by_ratio(shapes, ratio=0.1, cap=1.0)
