"""Annealing by the rate: particles in two valleys under noisy gradients, cooled too fast, rightly and too slowly."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from lehr.base import seeds
from lehr.schedules import Schedule, annealing

STEPS, PARTICLES, RATE, NOISE, TILT = 1500, 1000, 0.05, 5.0, 0.6
"""The landscape is (x² - 1)² - TILT x: a worse valley near -1, where all begin, and a better one near 1."""


@functools.cache
def cooled(alpha: float) -> Tensor:
    """Return where the particles are in the end, with the rate falling by ``alpha`` at each step."""
    return descended(lambda step: annealing(step, alpha=alpha, floor=0.0, every=1))


def descended(schedule: Schedule) -> Tensor:
    x = torch.full((PARTICLES,), -1.0, dtype=torch.float64)
    for step in range(STEPS):
        kicks = torch.randn(PARTICLES, generator=seeds.generator(0, "kicks", step), dtype=torch.float64)
        x = x - RATE * schedule(step) * (4 * x * (x * x - 1) - TILT + NOISE * kicks)
        x = x.clamp(-3, 3)
    return x


def in_the_better_valley(x: Tensor) -> float:
    return float((x > 0).double().mean())


def height(x: Tensor) -> float:
    return float(((x * x - 1) ** 2 - TILT * x).mean())


FAST, RIGHT, SLOW = 0.9, 0.997, 0.9999


def test_cooled_too_fast_they_stay_where_they_began() -> None:
    assert in_the_better_valley(cooled(FAST)) < 0.1
    assert in_the_better_valley(cooled(RIGHT)) > 0.8


def test_cooled_too_slowly_they_are_still_hot_at_the_end() -> None:
    """They have found the better valley, but jump about in it: the budget is over before they settle."""
    assert in_the_better_valley(cooled(SLOW)) > 0.7
    assert height(cooled(SLOW)) > height(cooled(RIGHT)) + 0.3
    settled, hot = (x[x > 0].std() for x in (cooled(RIGHT), cooled(SLOW)))
    assert float(hot) > 2 * float(settled)


def test_hot_first_slow_cooling_and_cold_at_last_is_the_lowest() -> None:
    heights = {alpha: height(cooled(alpha)) for alpha in (FAST, 0.98, RIGHT, SLOW)}
    assert min(heights, key=heights.__getitem__) == RIGHT
    cold = descended(lambda _: annealing(STEPS, alpha=RIGHT, floor=0.0, every=1))
    assert in_the_better_valley(cold) == 0, "cold from the beginning, they never leave"


def test_the_end_is_cold_and_nothing_moves_any_more() -> None:
    """The rate has fallen to the hundredth part; the last hundred steps move a particle by less than its valley."""
    assert annealing(STEPS, alpha=RIGHT, floor=0.0, every=1) == pytest.approx(0.997**STEPS)
    assert float(cooled(RIGHT)[cooled(RIGHT) > 0].std()) < 0.2
