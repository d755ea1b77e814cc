"""Every schedule against torch's own scheduler, its closed form, and what must hold for any of them."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lehr.base.durations import RunLength
from lehr.base.errors import SettingError
from lehr.base.tables import Row
from lehr.schedules import SCHEDULES, Constant, WarmupCosine, WarmupLinear, constant, warmup_cosine, warmup_linear

TOTAL = 500


def torch_rates(make: object, steps: int = TOTAL) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)  # type: ignore[operator]
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_is_torchs_at_every_step() -> None:
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=TOTAL, eta_min=0.1))
    ours = [warmup_cosine(step, total=TOTAL, floor=0.1) for step in range(TOTAL)]
    assert ours == pytest.approx(expected, abs=1e-12)


def test_linear_is_torchs_at_every_step() -> None:
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=TOTAL))
    ours = [warmup_linear(step, total=TOTAL, floor=0.1) for step in range(TOTAL)]
    assert ours == pytest.approx(expected, abs=1e-9)


def test_warmup_then_cosine_is_torchs_sequence() -> None:
    def make(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        schedulers = torch.optim.lr_scheduler
        rise = schedulers.LambdaLR(optimizer, lambda step: (step + 1) / 50)
        fall = schedulers.CosineAnnealingLR(optimizer, T_max=TOTAL - 50)
        return schedulers.SequentialLR(optimizer, [rise, fall], milestones=[50])

    ours = [warmup_cosine(step, total=TOTAL, warmup=50) for step in range(TOTAL)]
    assert ours == pytest.approx(torch_rates(make), abs=1e-9)


def test_the_guides_warm_ups_start_at_zero_and_ours_does_not() -> None:
    """Spec section 24, item 6: epoch/W and step/W give a first rate of 0; (step+1)/W does not waste the update."""
    guide = [min(step / 5, 1) for step in range(7)]
    ours = [constant(step, warmup=5) for step in range(7)]
    assert guide[0] == 0
    assert ours == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0]


shapes = st.tuples(st.integers(2, 3000), st.floats(0, 1), st.floats(0, 0.99)).map(
    lambda t: (t[0], int(t[1] * (t[0] - 1)), t[2])
)


@given(shapes, st.sampled_from([warmup_cosine, warmup_linear]))
def test_factors_stay_in_bounds_fall_after_the_warm_up_and_end_at_the_floor(shape: tuple, curve: object) -> None:
    total, warmup, floor = shape
    factors = [curve(step, total=total, warmup=warmup, floor=floor) for step in range(total + 2)]  # type: ignore[operator]
    assert all(0 < f <= 1 for f in factors[:warmup])
    assert all(floor - 1e-12 <= f <= 1 for f in factors[warmup:])
    assert all(a >= b - 1e-12 for a, b in zip(factors[warmup:], factors[warmup + 1 :], strict=False))
    assert factors[total] == floor
    if warmup:
        assert factors[0] == pytest.approx(1 / warmup)
        assert factors[warmup - 1] == 1
    assert factors[warmup] == 1


@given(st.integers(1, 500), st.integers(2, 600))
def test_no_jump_at_the_join(warmup: int, rest: int) -> None:
    total = warmup + rest
    before, after = (warmup_cosine(s, total=total, warmup=warmup) for s in (warmup - 1, warmup))
    assert before == after == 1


def test_cosine_by_hand() -> None:
    assert warmup_cosine(50, total=100) == pytest.approx(0.5)
    assert warmup_cosine(25, total=100) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


every_row = pytest.mark.parametrize("row", SCHEDULES.values(), ids=list(SCHEDULES))


@every_row
def test_every_row_of_the_table_resolves_and_is_pure(row: Row) -> None:
    schedule = row.make().resolve(RunLength(100, 10))
    forwards = [schedule(step) for step in range(100)]
    backwards = [schedule(step) for step in reversed(range(100))][::-1]
    assert forwards == backwards
    assert all(isinstance(f, float) and 0 <= f <= 1 for f in forwards)
    assert row.summary and row.choose


@every_row
def test_every_row_keeps_its_last_value_past_its_end(row: Row) -> None:
    schedule = row.make(length=96).resolve(RunLength(100))
    kept = {schedule(step) for step in range(96, 200)}
    assert len(kept) == 1
    assert kept.pop() == pytest.approx(schedule(95), abs=0.06)  # a cosine's last value comes one step later


@every_row
@given(steps=st.integers(20, 5000))
@settings(max_examples=15, deadline=None)
def test_every_row_stays_in_bounds_over_any_run(row: Row, steps: int) -> None:
    schedule = row.make().resolve(RunLength(steps))
    assert all(0 <= schedule(step) <= 1 for step in range(0, steps + 5, max(1, steps // 50)))


@every_row
def test_a_length_beyond_the_run_is_refused(row: Row) -> None:
    with pytest.raises(SettingError, match="lasts 101 steps, but the run has 100; use at most 100"):
        row.make(length=101).resolve(RunLength(100))


@every_row
def test_a_negative_length_is_refused(row: Row) -> None:
    with pytest.raises(SettingError, match="not a duration"):
        row.make(length=-5)


@every_row
def test_a_length_of_no_steps_is_refused_but_for_a_warm_up(row: Row) -> None:
    made = row.make(length=0)
    if row.name == "warmup":
        assert made.resolve(RunLength(100))(0) == 1
    else:
        with pytest.raises(SettingError, match="length=0 steps is 0 steps of a run of 100; give 1 or more"):
            made.resolve(RunLength(100))


def test_no_schedule_needs_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from lehr.schedules import parse; parse('warmup then cosine')"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_warm_up_in_units() -> None:
    in_epochs = WarmupCosine(warmup="2 epochs").resolve(RunLength(100, 10))
    assert in_epochs(0) == pytest.approx(1 / 20)
    assert Constant(warmup="10%").resolve(RunLength(100))(0) == pytest.approx(0.1)


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(SettingError, match=r"warmup=200 steps is 200 steps, but the run has 100"):
        WarmupLinear(warmup=200).resolve(RunLength(100))


@pytest.mark.parametrize("floor", [-0.1, 1.0, 2.0])
def test_a_floor_outside_the_range_is_refused(floor: float) -> None:
    with pytest.raises(SettingError, match="floor"):
        WarmupCosine(floor=floor)
