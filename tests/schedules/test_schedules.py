"""Every schedule against torch's own scheduler, its closed form, and what must hold for any of them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lehr.base.durations import RunLength
from lehr.base.errors import SettingError
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


@pytest.mark.parametrize("row", SCHEDULES.values(), ids=list(SCHEDULES))
def test_every_row_of_the_table_resolves_and_is_pure(row: object) -> None:
    schedule = row.make().resolve(RunLength(100, 10))  # type: ignore[attr-defined]
    forwards = [schedule(step) for step in range(100)]
    backwards = [schedule(step) for step in reversed(range(100))][::-1]
    assert forwards == backwards
    assert all(isinstance(f, float) and 0 <= f <= 1 for f in forwards)
    assert row.summary  # type: ignore[attr-defined]


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
