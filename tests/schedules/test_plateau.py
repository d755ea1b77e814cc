"""The plateau against torch's own, its memory, and its place inside combinations."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lehr.base.durations import RunLength
from lehr.base.errors import SettingError
from lehr.base.protocols import Observer, Place, Stateful
from lehr.schedules import Clipped, Constant, Cosine, Linear, Plateau, Schedule, Times, Warmup, observers, plateau
from lehr.schedules.plateau import Memory

RUN = RunLength(1000)


def factors(settings_: Plateau, values: list[float]) -> list[float]:
    memory, found = Memory(), []
    for value in values:
        memory = plateau(memory, value, settings_)
        found.append(memory.factor)
    return found


def torch_factors(settings_: Plateau, values: list[float]) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode=settings_.mode,
        factor=settings_.factor,
        patience=settings_.patience,
        threshold=settings_.threshold,
        threshold_mode=settings_.threshold_mode,
        cooldown=settings_.cooldown,
        min_lr=settings_.floor,
        eps=0.0,
    )
    found = []
    for value in values:
        scheduler.step(value)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize(("patience", "cooldown", "floor"), [(0, 0, 0.0), (2, 0, 1e-3), (3, 4, 0.0), (10, 1, 0.2)])
def test_is_torchs_on_sequences(mode: Any, threshold_mode: Any, patience: int, cooldown: int, floor: float) -> None:
    made = Plateau(
        mode=mode,
        threshold_mode=threshold_mode,
        patience=patience,
        cooldown=cooldown,
        floor=floor,
        threshold=0.01,
        factor=0.5,
    )
    for seed in range(5):
        draw = random.Random(seed)
        values = [abs(2 / (1 + 0.1 * i) + draw.gauss(0, 0.05)) for i in range(200)]
        values[20::37] = [math.nan] * len(values[20::37])
        assert factors(made, values) == pytest.approx(torch_factors(made, values))


@given(
    st.lists(st.one_of(st.floats(0, 10), st.sampled_from([math.nan, math.inf])), max_size=40),
    st.integers(0, 4),
    st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_is_torchs_on_any_sequence(values: list[float], patience: int, cooldown: int) -> None:
    made = Plateau(patience=patience, cooldown=cooldown, factor=0.5)
    assert factors(made, values) == pytest.approx(torch_factors(made, values))


def test_nan_is_never_an_improvement() -> None:
    assert factors(Plateau(patience=0, factor=0.5), [math.nan, 1.0, math.nan, 0.5]) == [0.5, 0.5, 0.25, 0.25]


def test_below_zero_a_worse_value_is_not_better() -> None:
    """Torch's relative threshold is a share of the value with its sign, which turns round below 0."""
    made, values = Plateau(patience=0, threshold=0.1, factor=0.5), [-1.0, -0.95]
    assert torch_factors(made, values)[-1] == 1.0
    assert factors(made, values)[-1] == 0.5


def test_by_hand() -> None:
    made = Plateau(patience=1, factor=0.1, cooldown=2, floor=0.05)
    #         first  worse worse  cooling ...  worse worse: floor
    values = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 1.0]
    assert factors(made, values) == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05])


def told(schedule: Schedule, values: dict[int, float]) -> None:
    for step, value in values.items():
        for observer in observers(schedule):
            observer.eval_end(Place(step=step, epoch=0, total_steps=RUN.steps), {"loss": value, "accuracy": -value})


def test_a_resolved_plateau_is_an_observer_with_a_state() -> None:
    schedule = Plateau(patience=0).resolve(RUN)
    assert isinstance(schedule, Observer) and isinstance(schedule, Stateful)
    told(schedule, {10: 1.0, 20: 1.0})
    assert schedule(20) == schedule(999) == pytest.approx(0.1)
    again = Plateau(patience=0).resolve(RUN)
    assert again(20) == 1.0  # nothing is shared between two of them
    again.load_state_dict(schedule.state_dict())
    told(again, {30: 0.5, 40: 0.7})
    assert again(40) == pytest.approx(0.01)
    assert all(value is None or isinstance(value, int | float) for value in schedule.state_dict().values())


def test_another_value_can_be_monitored() -> None:
    schedule = Plateau(patience=0, monitor="accuracy", mode="max", factor=0.5).resolve(RUN)
    told(schedule, {1: 1.0, 2: 0.5, 3: 0.7})
    assert schedule(3) == 0.5


def test_a_value_that_is_not_measured_is_refused() -> None:
    (observer,) = observers(Plateau(monitor="f1").resolve(RUN))
    with pytest.raises(SettingError, match=r"schedule.monitor='f1' is not measured; known: loss, accuracy"):
        observer.eval_end(Place(1, 0, 10), {"loss": 1.0, "accuracy": 0.5})


def test_within_a_sequence_it_counts_from_its_own_beginning() -> None:
    schedule = Warmup(length=100).then(Plateau(patience=0, factor=0.5)).resolve(RUN)
    told(schedule, {50: 1.0, 100: 2.0})  # the warm-up's evaluations say nothing about the plateau
    assert schedule(150) == 1.0
    told(schedule, {150: 3.0, 200: 3.0})
    assert schedule(200) == 0.5 and schedule(10) == 11 / 100
    (observer,) = observers(schedule)
    again = Warmup(length=100).then(Plateau(patience=0, factor=0.5)).resolve(RUN)
    observers(again)[0].load_state_dict(observer.state_dict())
    assert again(200) == 0.5
    assert observer.monitor == "loss"


def test_after_its_own_length_it_is_told_nothing() -> None:
    schedule = Plateau(length=100, patience=0, factor=0.5).then(Constant()).resolve(RUN)
    told(schedule, {50: 1.0, 100: 1.0, 150: 1.0})
    assert schedule(99) == 0.5 and schedule(150) == 1.0


def test_within_products_and_bounds() -> None:
    product = Times(parts=(Linear(), Clipped(schedule=Plateau(patience=0, factor=0.1), low=0.3))).resolve(RUN)
    told(product, {1: 1.0, 2: 1.0})
    assert product(500) == pytest.approx(0.15)
    both = Times(parts=(Plateau(), Warmup(length=5).then(Plateau()))).resolve(RUN)
    assert len(observers(both)) == 2
    assert observers(Warmup(length=5).then(Cosine()).resolve(RUN)) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("factor", 1.0),
        ("factor", 0),
        ("patience", -1),
        ("threshold", -1),
        ("cooldown", -1),
        ("floor", 1),
        ("mode", "low"),
    ],
)
def test_impossible_settings_are_refused(field: str, value: Any) -> None:
    with pytest.raises(SettingError, match=field):
        Plateau(**{field: value})
