"""Durations keep their unit, round once, and refuse what is not a length."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lehr.base.durations import Duration, RunLength
from lehr.base.errors import SettingError


@given(st.integers(0, 10**9))
def test_steps_survive_writing_and_reading(steps: int) -> None:
    duration = Duration.parse(steps)
    assert Duration.parse(str(duration)) == duration
    assert duration.steps(RunLength(1)) == steps


@given(st.integers(1, 10**6), st.integers(0, 100))
def test_percent_of_a_run_lies_within_it(total: int, percent: int) -> None:
    steps = Duration.parse(f"{percent}%").steps(RunLength(total))
    assert abs(steps - total * percent / 100) <= 0.5
    assert 0 <= steps <= total


@given(st.integers(1, 1000), st.integers(1, 10**4))
def test_epochs_count_batches(epochs: int, per_epoch: int) -> None:
    assert Duration.parse(f"{epochs} epochs").steps(RunLength(1, steps_per_epoch=per_epoch)) == epochs * per_epoch


def test_half_an_epoch() -> None:
    assert Duration.parse("0.5 epochs").steps(RunLength(1, steps_per_epoch=7)) == 4


@pytest.mark.parametrize(
    "given_",
    [
        "",
        "ten",
        "-5",
        "3 weeks",
        "1.5 steps",
        "101%",
        None,
        True,
        2.5,
        "5 %%",
        "1B",
        "3k steps",
        "1.5 tokens",
        "2 G tokens",
    ],
)
def test_what_is_no_duration_is_refused_with_what_is_allowed(given_: object) -> None:
    with pytest.raises(SettingError, match=r"duration|whole|at most"):
        Duration.parse(given_)


def test_epochs_need_a_known_length() -> None:
    with pytest.raises(SettingError, match="no known length"):
        Duration.parse("2 epochs").steps(RunLength(100))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("5000000 tokens", 5_000_000), ("1B tokens", 10**9), ("300M tokens", 3 * 10**8), ("20k tokens", 20_000)]
    + [("1.5M tokens", 1_500_000), ("1 token", 1), ("2.5 k tokens", 2500), ("1e9 tokens", 10**9)],
)
def test_tokens(text: str, tokens: int) -> None:
    duration = Duration.parse(text)
    assert (duration.value, duration.unit) == (tokens, "tokens")
    assert Duration.parse(str(duration)) == duration
    assert duration.steps(RunLength(1, tokens_per_step=1)) == tokens


@given(st.integers(1, 10**12), st.integers(1, 10**7))
def test_tokens_become_the_nearest_number_of_steps(tokens: int, per_step: int) -> None:
    steps = Duration(tokens, "tokens").steps(RunLength(1, tokens_per_step=per_step))
    assert abs(steps * per_step - tokens) <= per_step / 2


def test_tokens_need_data_that_counts_them() -> None:
    with pytest.raises(SettingError, match="does not tell how many tokens a sample has; give steps"):
        Duration.parse("1B tokens").steps(RunLength(100, steps_per_epoch=10))


def test_exact_steps_keep_the_fraction() -> None:
    assert Duration.parse("1%").exact_steps(RunLength(50)) == 0.5
    assert Duration.parse("0.5 epochs").exact_steps(RunLength(50, steps_per_epoch=7)) == 3.5


@pytest.mark.parametrize(
    ("value", "unit", "message"),
    [
        (-5, "steps", "-5 steps is no duration; its number is finite and 0 or more"),
        (-1.5, "epochs", "-1.5 epochs is no duration"),
        (float("nan"), "steps", "nan steps is no duration"),
        (float("inf"), "epochs", "inf epochs is no duration"),
        (5, "weeks", "'weeks' is no unit of a duration; use steps, epochs, tokens or %"),
        (1.5, "steps", "1.5 steps is not a whole number of steps"),
        (0.5, "tokens", "0.5 tokens is not a whole number of tokens"),
        (101, "%", "101% is more than the whole run; use at most 100%"),
        ("5", "steps", "'5' is no number; a text is read by Duration.parse"),
    ],
)
def test_a_duration_that_is_made_directly_is_checked_too(value: Any, unit: Any, message: str) -> None:
    with pytest.raises(SettingError, match=re.escape(message)):
        Duration(value, unit)


@pytest.mark.parametrize("text", ["1e400", "1e400 epochs", "1e400%", "9e999 tokens"])
def test_a_number_beyond_all_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="is no duration; its number is finite"):
        Duration.parse(text)


@given(st.floats(0, 1e300), st.sampled_from(["epochs", "%"]))
def test_writing_loses_no_digit(value: float, unit: Any) -> None:
    duration = Duration(value if unit == "epochs" else min(value, 100.0), unit)
    assert Duration.parse(str(duration)) == duration


def test_written_as_people_write_it() -> None:
    texts = ["5%", "20 steps", "1.5 epochs", "33.3333333%", "1000000000 tokens", "1234567.5 epochs", "0 steps"]
    assert [str(Duration.parse(text)) for text in texts] == texts
    assert str(Duration(5, "%")) == "5%"
