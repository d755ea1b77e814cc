"""Phases of curves, found where they are; the temperature against the noise of SGD; the drawing for a terminal."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lehr.base.durations import RunLength
from lehr.base.errors import SettingError
from lehr.reporting.curve import Curve, phases, reading, temperature
from lehr.reporting.schedule_text import chart, describe
from lehr.schedules import SCHEDULES
from lehr.schedules.expression import parse

STEPS = 1000
FOUND = {
    "constant": "0 constant",
    "warmup_cosine": "0 warm-up, 50 decay",
    "warmup_linear": "0 warm-up, 50 decay",
    "step": "0 constant, 300 constant, 600 constant, 900 constant",
    "multi_step": "0 constant, 500 constant, 750 constant, 900 constant",
    "exponential": "0 decay",
    "cosine": "0 decay",
    "cosine_restarts": "0 decay, 250 decay, 500 decay, 750 decay",
    "linear": "0 decay",
    "polynomial": "0 decay",
    "one_cycle": "0 warm-up, 299 decay",
    "cyclic": ", ".join(f"{step} {'decay' if step // 100 % 2 else 'rise'}" for step in range(0, STEPS, 100)),
    "warmup": "0 warm-up, 50 constant",
    "inverse_sqrt": "0 warm-up, 49 decay",
    "noam": "0 warm-up, 49 decay",
    "wsd": "0 warm-up, 50 constant, 800 decay",
    "annealing": "0 decay",
    "plateau": "0 constant",
    "warmup(2) then cosine": "0 warm-up, 2 decay",
    "warmup(200) then cosine(700) then constant(100)": "0 warm-up, 200 decay, 900 constant",
    "multi_step(milestones=[50, 75, 90])": "0 constant, 50 constant, 75 constant, 90 constant",
    "cosine_restarts(period=100, period_mult=2)": "0 decay, 100 decay, 300 decay, 700 decay",
    "step(every=50%) times cosine": "0 decay, 500 decay",
    "repeated(cosine, 3)": "0 decay, 333 decay, 667 decay",
    "clipped(cosine, 0.2, 0.9)": "0 constant, 204 decay, 705 constant",
    "linear(500, end=0.8) then linear(start=0.8)": "0 decay, 500 decay",
    "cyclic(mode=sine, up=250)": "0 rise, 250 decay, 500 rise, 750 decay",
}
"""By hand: from the default shares of 1000 steps, and from what the expression says."""
READINGS = {
    "constant": "a constant temperature",
    "warmup": "slow heating, then a constant temperature",
    "warmup_cosine": "slow heating, then cooling",
    "step": "stepwise cooling",
    "exponential": "exponential cooling",
    "cosine": "cooling",
    "cosine_restarts": "cooling with reheating",
    "cyclic": "a periodic drive",
    "wsd": "slow heating, then a constant temperature, then cooling",
    "warmup then cosine_restarts": "slow heating, then cooling with reheating",
    "warmup then step(every=40%)": "slow heating, then stepwise cooling",
    "scaled(constant(300), 0.5) then constant": "cooling and heating in steps",
    "linear(500, start=0.1, end=1) then linear(400) then linear(start=0.01, end=0.5)": "a periodic drive",
    "exponential(length=500) then linear": "cooling with reheating",
}


def curve(text: str, steps: int = STEPS, **more: Any) -> Curve:
    schedule = parse(text).resolve(RunLength(steps, 10))
    return Curve(**{"name": text, "schedule": schedule, "steps": steps, "rate": 0.1, "batch_size": 32} | more)


def shown(curve: Curve) -> str:
    return ", ".join(f"{b.step} {b.phase}" for b in curve.boundaries[:-1])


@pytest.mark.parametrize("text", FOUND)
def test_phases_of_the_catalogue(text: str) -> None:
    assert shown(curve(text)) == FOUND[text]


def test_every_schedule_is_in_the_catalogue_above() -> None:
    assert set(SCHEDULES) <= set(FOUND)


def test_a_boundary_says_what_holds_there() -> None:
    start, top, end = curve("warmup(200) then cosine(800)", momentum=0.9).boundaries
    assert (start.step, start.factor, start.rate) == (0, 1 / 200, pytest.approx(0.0005))
    assert (top.step, top.factor, top.rate, top.momentum) == (200, 1.0, 0.1, 0.9)
    assert top.temperature == pytest.approx(0.1 / 3.2)
    assert (end.step, end.phase) == (999, "end")
    assert end.factor == pytest.approx((1 + math.cos(math.pi * 799 / 800)) / 2)


slopes = st.lists(st.tuples(st.integers(4, 30), st.floats(0.01, 5)), min_size=1, max_size=8)


@given(slopes, st.booleans())
@settings(max_examples=60, deadline=None)
def test_turning_points_of_any_zigzag_are_found(pieces: list[tuple[int, float]], up: bool) -> None:
    sign, values, turns = 1 if up else -1, [0.0], [0]
    for length, slope in pieces:
        values += [values[-1] + sign * slope * k for k in range(1, length + 1)]
        turns.append(len(values) - 1)
        sign = -sign
    assert [phase.start for phase in phases(values)] == turns[:-1]


@given(st.lists(st.integers(3, 30), min_size=1, max_size=8), st.floats(0.05, 0.95))
@settings(max_examples=60, deadline=None)
def test_stages_of_any_length_are_found(lengths: list[int], gamma: float) -> None:
    values = [gamma**stage for stage, length in enumerate(lengths) for _ in range(length)]
    found = phases(values)
    assert [phase.start for phase in found] == [0, *itertools.accumulate(lengths[:-1])]
    assert {phase.kind for phase in found} == {"constant"}


@given(st.integers(3, 60), st.integers(3, 60), st.floats(0.05, 0.7))
@settings(max_examples=60, deadline=None)
def test_a_bend_between_two_falls_is_found(first: int, second: int, low: float) -> None:
    before, after = (1 - low) / first, low / second
    values = [1 - before * k for k in range(first)] + [low - after * k for k in range(second + 1)]
    bends = abs(after - before) > 0.05 * max(before, after)
    smooth = abs(after - before) < 0.01 * max(before, after)
    starts = [phase.start for phase in phases(values)]
    if bends:
        assert starts == [0, first]
    elif smooth:
        assert starts == [0]


def test_smooth_curves_have_no_bends() -> None:
    for power in (0.5, 0.9, 2.0, 3.0):
        assert shown(curve(f"polynomial(power={power})")) == "0 decay"
    assert len(phases([1 / (1 + k) for k in range(300)])) == 1
    assert len(phases([math.exp(-((k / 80) ** 2)) for k in range(300)])) == 1


@pytest.mark.parametrize(
    ("values", "kinds"),
    [([1.0], ["constant"]), ([1.0, 2.0], ["warm-up"]), ([2.0, 1.0], ["decay"]), ([1.0, 1.0], ["constant"])],
)
def test_curves_of_one_and_two_steps(values: list[float], kinds: list[str]) -> None:
    assert [phase.kind for phase in phases(values)] == kinds
    short = Curve(name="", schedule=values.__getitem__, steps=len(values), rate=1.0, batch_size=1)
    assert short.boundaries[-1].step == len(values) - 1
    assert describe(short)


def test_very_long_runs_are_sampled_and_their_phases_exact() -> None:
    asked: list[int] = []
    inner = parse("warmup(123_457) then constant(700_000_001) then linear".replace("_", "")).resolve(RunLength(10**9))
    long = Curve(
        name="", schedule=lambda s: asked.append(s) or inner(s), steps=10**9, rate=1.0, batch_size=1
    )  # fmt: skip
    assert shown(long) == "0 warm-up, 123457 constant, 700123458 decay"
    assert len(asked) < 500_000


@pytest.mark.parametrize("text", READINGS)
def test_readings(text: str) -> None:
    assert reading(curve(text)) == READINGS[text]


def test_the_reading_is_of_the_shape_not_of_the_name() -> None:
    by_hand = Curve(name="", schedule=lambda step: 0.1 ** (step // 30), steps=90, rate=1, batch_size=1)
    assert reading(by_hand) == "stepwise cooling"


def spread(rate: float, batch_size: int, momentum: float) -> float:
    """Return the stationary variance of one weight under SGD on x²/2 with noise of variance 1 per sample.

    ``v' = m v - rate (x + noise / sqrt(B))``, ``x' = x + v'``: the fixed point of ``P = A P Aᵀ + Q``, solved exactly.
    """
    step = np.array([[1 - rate, momentum], [-rate, momentum]])
    noise = rate**2 / batch_size * np.ones((2, 2))
    covariance = np.linalg.solve(np.eye(4) - np.kron(step, step), noise.reshape(-1))
    return float(covariance[0])


def test_the_spread_of_sgd_is_proportional_to_the_temperature() -> None:
    for rate, batch_size, momentum in itertools.product((1e-3, 4e-3), (1, 8, 64), (0.0, 0.5, 0.9)):
        heat = temperature(rate, batch_size=batch_size, momentum=momentum)
        assert spread(rate, batch_size, momentum) == pytest.approx(heat / 2, rel=0.003)


def test_temperature_by_hand() -> None:
    assert temperature(0.1, batch_size=32) == pytest.approx(0.003125)
    assert temperature(0.1, batch_size=32, momentum=0.9) == pytest.approx(0.03125)
    halved, doubled = temperature(0.05, batch_size=32), temperature(0.1, batch_size=64)
    assert halved == doubled == pytest.approx(0.1 / 64)


@pytest.mark.parametrize(("bad", "words"), [({"momentum": 1.0}, "less than 1"), ({"momentum": -0.1}, "0 or more")])
def test_temperatures_that_cannot_be(bad: dict[str, float], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        temperature(0.1, batch_size=1, **bad)
    with pytest.raises(SettingError, match="batch_size=0"):
        temperature(0.1, batch_size=0)


def test_a_momentum_that_is_cycled_moves_the_temperature() -> None:
    cycle = parse("one_cycle(cycle_momentum=[0.85, 0.95])")
    moved = curve("one_cycle", momentum=cycle.momentum(RunLength(STEPS)))
    still = curve("one_cycle", momentum=0.95)
    peak = moved.boundaries[1]
    assert peak.momentum == pytest.approx(0.85)
    assert peak.temperature == pytest.approx(0.1 / (32 * 0.15))
    assert still.boundaries[1].temperature == pytest.approx(3 * peak.temperature)
    assert "\nmomentum\n" in describe(moved) and "\nmomentum\n" not in describe(still)


def test_a_factor_that_is_no_number_is_refused() -> None:
    with pytest.raises(SettingError, match="mine gives the factor nan at step 3; it must be a finite number"):
        Curve(
            name="mine", schedule=lambda s: math.nan if s == 3 else 1.0, steps=9, rate=1, batch_size=1
        ).boundaries  # fmt: skip


def test_plain_values_are_few_and_end_at_the_last_step() -> None:
    plain = curve("warmup(200) then cosine", 5000).plain()
    assert len(plain["at"]) == 500 == len(plain["rates"]) == len(plain["momentum"]) == len(plain["temperature"])
    assert (plain["at"][0], plain["at"][-1], plain["steps"]) == (0, 4999, 5000)
    assert len(set(plain["at"])) == 500
    assert plain["rates"][0] == pytest.approx(0.1 / 200)
    short = curve("cosine", 7).plain()
    assert short["at"] == list(range(7))
    assert short["rates"] == [0.1 * (1 + math.cos(math.pi * s / 7)) / 2 for s in range(7)]


def test_the_drawing_has_axes_and_the_curve_between_them() -> None:
    lines = chart(lambda step: step / 99, range(100), 100, width=20, height=5)
    assert lines[0].startswith("        1 |") and lines[4].startswith("        0 |")
    assert lines[-2].endswith("+" + "-" * 20) and lines[-1].endswith(" 99")
    assert all(len(line) <= 31 and line.isascii() for line in lines)
    heights = [max(row for row in range(5) if lines[4 - row][11:].ljust(20)[x] != " ") for x in range(20)]
    assert heights == sorted(heights) and heights[0] == 0 and heights[-1] == 4


def test_jumps_are_joined_and_fast_changes_fill_their_column() -> None:
    lines = chart(lambda step: float(step < 50), range(100), 100, width=10, height=4)
    assert [line[11:] for line in lines[:4]] == ["*****", "     |", "     |", "     *****"]
    filled = chart(lambda step: float(step % 2), range(100), 100, width=10, height=4)
    assert [line[11:] for line in filled[:4]] == ["*" * 10] * 4


def test_a_run_of_few_steps_fills_the_width() -> None:
    assert chart(lambda step: [1.0, 0.0][step], range(2), 2, width=8, height=2)[:2] == [
        "        1 |****",
        "        0 |    ****",
    ]


def test_a_curve_of_zeros_and_one_below_zero_can_be_drawn() -> None:
    assert chart(lambda step: 0.0, range(9), 9, width=9, height=3)[2] == "        0 |*********"
    assert chart(lambda step: -step / 8, range(9), 9, width=9, height=3)[2].startswith("       -1 |")


def test_the_text_names_boundaries_and_says_what_the_numbers_are_for() -> None:
    text = describe(curve("warmup(200) then cosine(800)", momentum=0.9, other="AdamW", notes=("two groups",)))
    assert text.startswith("warmup(200) then cosine(800): 1000 steps, base rate 0.1\n")
    assert "      200  decay             0.1           1      0.0313\n" in text
    assert "temperature = rate / (batch size 32 * (1 - momentum 0.9)): slow heating, then cooling\n" in text
    assert "hottest 0.0313 at step 199," in text
    assert text.endswith("with AdamW it is a rough guide only\nnote: two groups")
    assert text.isascii()


def test_of_many_phases_the_first_and_the_last_are_listed() -> None:
    lines = describe(curve("cyclic(up=10)")).splitlines()
    listed = lines[lines.index(next(line for line in lines if "phase" in line)) + 1 : lines.index("", 18)]
    assert len(listed) == 14
    assert listed[11] == "      ...  88 more" and listed[-1].split()[:2] == ["999", "end"]


@pytest.mark.parametrize("steps", [10**18, 10**18 + 1, 10**30])
def test_a_run_of_any_length_is_drawn(steps: int) -> None:
    drawn = curve("cosine", steps)
    assert (drawn.at[0], drawn.at[-1]) == (0, steps - 1)
    assert "cooling" in describe(drawn)
