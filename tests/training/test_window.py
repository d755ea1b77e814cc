"""A record does not depend on when its steps were read."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lehr.training.clock import Clock
from lehr.training.steps.eager import Outcome
from lehr.training.window import Window

steps = st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(1, 100)), min_size=1, max_size=20)


@given(steps, st.sets(st.integers(0, 19)), st.booleans())
def test_settling_at_any_moments_gives_the_same_sums(
    given_steps: list[tuple[float, int]], moments: set[int], tensors: bool
) -> None:
    once, often = Window(), Window()
    clocks = Clock(), Clock()
    for place, (total, count) in enumerate(given_steps):
        outcome = Outcome(total, count, count, total / 2)
        if tensors:
            outcome = Outcome(*(torch.tensor(v, dtype=torch.float64) for v in outcome[:4]))
        once.add(outcome)
        often.add(outcome)
        if place in moments:
            often.settle(clocks[1])
            state = often.state_dict()
            often = Window()
            often.load_state_dict(state)
    once.settle(clocks[0])
    often.settle(clocks[1])
    assert once.state_dict() == often.state_dict()
    assert clocks[0] == clocks[1]


@given(steps, st.integers(0, 20))
def test_steps_that_are_taken_back_leave_no_trace(given_steps: list[tuple[float, int]], back: int) -> None:
    back = min(back, len(given_steps))
    window, expected = Window(), Window()
    clock, clock_expected = Clock(), Clock()
    for place, (total, count) in enumerate(given_steps):
        for one, its_clock in ((window, clock), (expected, clock_expected)):
            if one is window or place < len(given_steps) - back:
                one.add(Outcome(total, count, count, 1.0, None, 2))
                its_clock.step += 1
                its_clock.microsteps += 2
    window.take_back(back, clock)
    window.settle(clock)
    expected.settle(clock_expected)
    assert window.state_dict() == expected.state_dict()
    assert clock == clock_expected
