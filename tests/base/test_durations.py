"""Durations keep their unit, round once, and refuse what is not a length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lehr.base.durations import Duration
from lehr.base.errors import SettingError


@given(st.integers(0, 10**9))
def test_steps_survive_writing_and_reading(steps: int) -> None:
    duration = Duration.parse(steps)
    assert Duration.parse(str(duration)) == duration
    assert duration.steps(total_steps=None, steps_per_epoch=None) == steps


@given(st.integers(1, 10**6), st.integers(0, 100))
def test_percent_of_a_run_lies_within_it(total: int, percent: int) -> None:
    steps = Duration.parse(f"{percent}%").steps(total_steps=total, steps_per_epoch=None)
    assert abs(steps - total * percent / 100) <= 0.5
    assert 0 <= steps <= total


@given(st.integers(1, 1000), st.integers(1, 10**4))
def test_epochs_count_batches(epochs: int, per_epoch: int) -> None:
    assert Duration.parse(f"{epochs} epochs").steps(total_steps=None, steps_per_epoch=per_epoch) == epochs * per_epoch


def test_half_an_epoch() -> None:
    assert Duration.parse("0.5 epochs").steps(total_steps=None, steps_per_epoch=7) == 4


@pytest.mark.parametrize("given_", ["", "ten", "-5", "3 weeks", "1.5 steps", "101%", None, True, 2.5, "5 %%"])
def test_what_is_no_duration_is_refused_with_what_is_allowed(given_: object) -> None:
    with pytest.raises(SettingError, match=r"duration|whole|at most"):
        Duration.parse(given_)


def test_epochs_need_a_known_length() -> None:
    with pytest.raises(SettingError, match="no known length"):
        Duration.parse("2 epochs").steps(total_steps=100, steps_per_epoch=None)
