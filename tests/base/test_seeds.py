"""Addressed randomness: the same at an address, different elsewhere, and nothing outside is touched."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lehr.base import seeds

numbers = st.integers(0, 2**62)


def test_addresses_never_change() -> None:
    """Stored runs depend on these values; changing them changes what a resumed run draws."""
    assert seeds.mix(0, 0) == 1521802938161714507
    assert seeds.address(0, "order", 0) == 129626785536006265
    assert seeds.address(7, "noise", 1) == 6474407376657995095
    assert torch.randperm(5, generator=seeds.generator(0, "order", 0)).tolist() == [4, 3, 2, 1, 0]


@given(numbers, numbers, numbers)
def test_mix_tells_values_and_states_apart(state: int, one: int, other: int) -> None:
    assert 0 <= seeds.mix(state, one) < 2**63
    assert (seeds.mix(state, one) == seeds.mix(state, other)) == (one == other)


def test_addresses_of_a_grid_are_all_different() -> None:
    grid = {seeds.address(s, "sample", e, i) for s in range(3) for e in range(20) for i in range(200)}
    assert len(grid) == 3 * 20 * 200


def test_noise_differs_by_step_and_microbatch_and_repeats_at_the_same() -> None:
    with seeds.isolated_global_generators():
        draws = {}
        for place in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0)]:
            seeds.seed_noise(seeds.address(0, "noise", 0), *place, "cpu")
            draws.setdefault(place, []).append(float(torch.rand(())))
    assert draws[0, 0][0] == draws[0, 0][1]
    assert len({values[0] for values in draws.values()}) == 4


def test_sample_seeds_reach_all_three_generators_and_distributions() -> None:
    def draw() -> tuple[float, ...]:
        normal = torch.distributions.Normal(0.0, 1.0).sample()
        return random.random(), float(np.random.rand()), float(torch.rand(())), float(normal)

    with seeds.isolated_global_generators():
        seeds.seed_sample(1, 2, 3)
        first = draw()
        seeds.seed_sample(1, 2, 4)
        other = draw()
        seeds.seed_sample(1, 2, 3)
        again = draw()
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_blocks_leave_the_global_generators_as_they_were(global_draws: Callable[[], tuple[float, ...]]) -> None:
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with seeds.seeded(3, "init"):
        global_draws()
    seeds.generator(3, "own")
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == state


def test_seeding_noise_is_cheap() -> None:
    with seeds.isolated_global_generators():
        start = time.perf_counter()
        for step in range(2000):
            seeds.seed_noise(5, step, 0, "cpu")
        assert (time.perf_counter() - start) / 2000 < 20e-6
