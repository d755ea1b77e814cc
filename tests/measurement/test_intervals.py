"""Intervals of medians: how often they hold what is true, and when they say nothing."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lehr.base.errors import SettingError
from lehr.measurement.intervals import Interval, least_pairs, median_interval, verdict


@given(st.lists(st.floats(0.1, 10), min_size=8, max_size=60))
def test_the_median_lies_in_its_interval_and_the_bounds_are_measurements(values: list[float]) -> None:
    found = median_interval(values)
    assert found.low <= found.median <= found.high
    assert {found.low, found.high} <= set(values)
    assert found.median == pytest.approx(statistics.median(values))


@given(st.lists(st.floats(0.1, 10), min_size=8, max_size=40), st.floats(0.5, 0.98))
def test_less_confidence_is_no_wider(values: list[float], confidence: float) -> None:
    if len(values) < least_pairs(confidence):
        return
    sure, other = median_interval(values), median_interval(values, confidence)
    assert sure.low <= other.low <= other.high <= sure.high


@pytest.mark.parametrize("n", [8, 9, 15, 30])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_the_interval_misses_the_true_median_as_seldom_as_it_says(n: int, confidence: float) -> None:
    own = torch.Generator().manual_seed(n)
    samples = torch.randn(4000, n, generator=own).exp()  # lopsided, with outliers: the median is 1
    missed = sum(
        not (found.low <= 1 <= found.high) for found in (median_interval(row, confidence) for row in samples.tolist())
    )
    expected = 4000 * (1 - confidence)
    assert missed <= expected + 4 * math.sqrt(expected)


@pytest.mark.parametrize(("n", "k"), [(8, 1), (14, 2), (15, 3), (20, 4), (30, 8), (2000, 942)])
def test_the_rank_is_the_one_of_the_sign_test(n: int, k: int) -> None:
    found = median_interval([float(i) for i in range(1, n + 1)])
    assert (found.low, found.high) == (k, n + 1 - k)
    tail = sum(math.comb(n, i) for i in range(k)) / 2**n
    assert 2 * tail <= 0.01 < 2 * (tail + math.comb(n, k) / 2**n)


def test_outliers_up_to_the_rank_do_not_move_the_bounds() -> None:
    calm = [1 + i / 100 for i in range(20)]
    wild = [0.001, 0.001, *calm[2:18], 1e6, 1e6]
    assert median_interval(wild) == median_interval(calm)


def test_too_few_measurements_prove_nothing() -> None:
    with pytest.raises(SettingError, match="7 measurements cannot give an interval of 0.99; 8 are needed"):
        median_interval([1.0] * 7)
    with pytest.raises(SettingError, match="no share between 0 and 1"):
        least_pairs(1.0)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(1.05, 1.3, "faster"), (0.7, 0.95, "slower"), (0.9, 1.1, "no evidence"), (1.035, 1.2, "no evidence")],
)
def test_a_winner_is_called_only_where_the_interval_is_on_one_side(low: float, high: float, said: str) -> None:
    assert verdict(Interval(1.0, low, high)) == said
