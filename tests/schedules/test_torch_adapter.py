"""Schedules as torch's schedulers, torch's schedulers as schedules, and misuse that is noticed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from lehr.base.durations import RunLength
from lehr.base.errors import SettingError
from lehr.schedules import Cosine, Linear, OneCycle, Plateau, Warmup, as_torch, from_torch

STEPS = 60
RUN = RunLength(STEPS)


def sgd(lr: float = 0.1, **given: Any) -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=lr, **given)


def rates(optimizer: torch.optim.Optimizer, scheduler: Any, steps: int = STEPS) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_writes_base_times_factor_from_the_first_update_on() -> None:
    schedule = Warmup(length=5).then(Cosine()).resolve(RUN)
    first, second = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.AdamW([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.01}])
    scheduler = as_torch(schedule, optimizer)
    for step in range(STEPS):
        assert scheduler.get_last_lr() == pytest.approx([0.1 * schedule(step), 0.01 * schedule(step)])
        optimizer.step()
        scheduler.step()


class GuidesWrapper:
    """The guide's warm-up wrapper, in short: it sets its first value at the first step()."""

    def __init__(self, optimizer: torch.optim.Optimizer, warmup: int) -> None:
        self.optimizer, self.warmup, self.counter = optimizer, warmup, 0
        self.base = [group["lr"] for group in optimizer.param_groups]

    def step(self) -> None:
        if self.counter < self.warmup:
            for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
                group["lr"] = base * (self.counter + 1) / self.warmup
        self.counter += 1


def test_the_guides_wrapper_begins_at_the_full_rate_without_a_state_and_ours_does_not() -> None:
    optimizer = sgd(1e-3)
    guide = rates(optimizer, GuidesWrapper(optimizer, 5), steps=6)
    assert guide == pytest.approx([1e-3, 2e-4, 4e-4, 6e-4, 8e-4, 1e-3])
    assert not hasattr(GuidesWrapper, "state_dict")
    optimizer = sgd(1e-3)
    ours = rates(optimizer, as_torch(Warmup(length=5).resolve(RUN), optimizer), steps=6)
    assert ours == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 1e-3])


def test_the_guides_warm_up_function_ignores_what_follows_and_ours_does_not() -> None:
    optimizer = sgd(1e-3)
    after = Warmup(length=5).then(Linear(start=1, end=0)).resolve(RUN)
    found = rates(optimizer, as_torch(after, optimizer))
    guide = [1e-3 * min((epoch + 1) / 5, 1) for epoch in range(STEPS)]  # total_epochs and after_scheduler are unused
    assert found[:5] == pytest.approx(guide[:5])
    assert found[-1] < 1e-4 < guide[-1]


def test_momentum_is_torchs_one_cycle() -> None:
    for make in (lambda: sgd(momentum=0.9), lambda: torch.optim.AdamW([torch.zeros(2, requires_grad=True)], lr=0.1)):
        settings = OneCycle(cycle_momentum=(0.85, 0.95))
        ours, theirs = make(), make()
        mine = as_torch(settings.resolve(RUN), ours, momentum=settings.momentum(RUN))
        other = lr_scheduler.OneCycleLR(theirs, 0.1, STEPS)
        for _ in range(STEPS - 1):
            for key in ("lr", "momentum") if "momentum" in ours.param_groups[0] else ("lr",):
                assert ours.param_groups[0][key] == pytest.approx(theirs.param_groups[0][key])
            if "betas" in ours.param_groups[0]:
                assert ours.param_groups[0]["betas"] == pytest.approx(theirs.param_groups[0]["betas"])
            for part in (ours, mine, theirs, other):
                part.step()


def test_state_goes_on_where_it_was() -> None:
    schedule = Warmup(length=5).then(Cosine()).resolve(RUN)
    whole_optimizer = sgd()
    whole = rates(whole_optimizer, as_torch(schedule, whole_optimizer))
    optimizer = sgd()
    scheduler = as_torch(schedule, optimizer)
    first = rates(optimizer, scheduler, steps=20)
    saved = copy.deepcopy(scheduler.state_dict())
    other = sgd()
    again = as_torch(Warmup(length=5).then(Cosine()).resolve(RUN), other)
    again.load_state_dict(saved)
    assert again.get_last_lr() == scheduler.get_last_lr()
    assert first + rates(other, again, steps=40) == pytest.approx(whole)


def test_a_rate_that_is_a_tensor_stays_that_tensor() -> None:
    schedule = Warmup(length=5).then(Cosine()).resolve(RUN)
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=torch.tensor(0.1))
    rate = optimizer.param_groups[0]["lr"]
    scheduler = as_torch(schedule, optimizer)
    optimizer.step()
    scheduler.step()
    saved = scheduler.state_dict()
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is rate and rate.item() == pytest.approx(0.06)
    scheduler.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] is rate and rate.item() == pytest.approx(0.04)
    assert [float(r) for r in scheduler.get_last_lr()] == pytest.approx([0.04])


def test_the_state_is_plain() -> None:
    optimizer = sgd()
    state = as_torch(Warmup(length=3).then(Plateau()).resolve(RUN), optimizer).state_dict()
    assert state == {
        "step": 0,
        "base_lrs": [0.1],
        "memories": [{"factor": 1.0, "best": None, "waited": 0, "cooldown": 0}],
    }


def test_a_plateau_alone_is_stepped_with_what_was_measured() -> None:
    optimizer = sgd()
    scheduler = as_torch(Plateau(patience=1).resolve(RUN), optimizer)
    for loss in (1.0, 1.0, 1.0):
        for _ in range(5):
            optimizer.step()
        scheduler.step(loss)
    assert scheduler.get_last_lr() == pytest.approx([0.01])
    saved = scheduler.state_dict()
    again = as_torch(Plateau(patience=1).resolve(RUN), sgd())
    again.load_state_dict(saved)
    assert again.get_last_lr() == pytest.approx([0.01])


def test_a_plateau_without_the_measured_value_is_refused() -> None:
    scheduler = as_torch(Plateau().resolve(RUN), sgd())
    with pytest.raises(SettingError, match=r"call step\(val_loss\) after each evaluation"):
        scheduler.step()


def test_a_plateau_in_a_sequence_takes_what_there_is() -> None:
    optimizer = sgd()
    scheduler = as_torch(
        Warmup(length=2).then(Plateau(patience=0, monitor="accuracy", mode="max")).resolve(RUN), optimizer
    )
    for metrics in (None, {"accuracy": 0.9}, {"accuracy": 0.5}, None, 0.4):
        optimizer.step()
        scheduler.step(metrics)
    assert scheduler.get_last_lr() == pytest.approx([0.01])


def test_a_measured_value_for_what_does_not_go_by_one_is_refused() -> None:
    scheduler = as_torch(Cosine().resolve(RUN), sgd())
    with pytest.raises(SettingError, match="does not go by measured values"):
        scheduler.step(0.5)


def test_a_forgotten_step_is_refused_at_the_second_update() -> None:
    optimizer = sgd()
    as_torch(Cosine().resolve(RUN), optimizer)
    optimizer.step()
    with pytest.raises(SettingError, match="2 updates since the schedule was stepped; call scheduler.step"):
        optimizer.step()


def test_one_cycle_stepped_by_the_epoch_is_refused() -> None:
    """The guide's third mistake: torch's own says nothing, and the run ends near its first rate."""
    optimizer = sgd(momentum=0.9)
    theirs = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=100)
    for _ in range(10):
        for _ in range(10):
            optimizer.step()
        theirs.step()
    assert theirs.get_last_lr()[0] < 0.05
    optimizer = sgd(momentum=0.9)
    as_torch(OneCycle().resolve(RunLength(100)), optimizer)
    optimizer.step()
    with pytest.raises(SettingError, match="each_update=False"):
        optimizer.step()


def test_a_schedule_that_counts_epochs_may_be_stepped_by_the_epoch() -> None:
    optimizer = sgd()
    scheduler = as_torch(Linear().resolve(RunLength(4)), optimizer, each_update=False)
    for _ in range(2):
        for _ in range(10):
            optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.05])


def test_stepping_before_the_first_update_is_told() -> None:
    scheduler = as_torch(Cosine().resolve(RUN), sgd())
    with pytest.warns(UserWarning, match="lr_scheduler.step"):
        scheduler.step()


def test_momentum_for_an_optimizer_without_one_is_refused() -> None:
    optimizer = torch.optim.Adagrad([torch.zeros(1, requires_grad=True)])
    with pytest.raises(SettingError, match="but Adagrad has none; use cycle_momentum=none"):
        as_torch(Cosine().resolve(RUN), optimizer, momentum=lambda step: 0.9)


def chained(optimizer: torch.optim.Optimizer) -> Any:
    fall = lr_scheduler.ExponentialLR(optimizer, 0.99)
    return lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(optimizer, 0.5, 10), fall])


def sequential(optimizer: torch.optim.Optimizer) -> Any:
    rise = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5)
    return lr_scheduler.SequentialLR(optimizer, [rise, lr_scheduler.CosineAnnealingLR(optimizer, 55)], [5])


TORCHS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 7),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [10, 20]),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 60),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 10, 2),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 60, 2.0),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: step / 10 if step < 10 else 1.0),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.95),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.7, STEPS, cycle_momentum=False),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.7, 8, cycle_momentum=False),
    "CyclicLR, a function of its own": lambda o: lr_scheduler.CyclicLR(
        o, 0.01, 0.7, 8, scale_fn=lambda cycle: 1 / cycle, cycle_momentum=False
    ),
    "SequentialLR": sequential,
    "ChainedScheduler": chained,
    "our own": lambda o: as_torch(Warmup(length=5).then(Cosine()).resolve(RUN), o),
}


@pytest.mark.parametrize("name", TORCHS)
def test_torchs_schedulers_are_read_without_touching_them(name: str) -> None:
    optimizer = sgd(0.3)
    expected = rates(optimizer, TORCHS[name](optimizer), steps=STEPS)
    optimizer = sgd(0.3)
    scheduler = TORCHS[name](optimizer)
    schedule = from_torch(scheduler)
    backwards = [0.3 * schedule(step) for step in reversed(range(STEPS))]
    assert backwards[::-1] == pytest.approx(expected)
    assert getattr(scheduler, "last_epoch", 0) == 0
    assert optimizer.param_groups[0]["lr"] == expected[0]
    assert not optimizer.state


def test_groups_that_move_alike_are_one_factor() -> None:
    def groups() -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": [torch.zeros(1)], "lr": 0.1}, {"params": [torch.zeros(1)], "lr": 0.2}], lr=9)

    schedule = from_torch(lr_scheduler.CosineAnnealingLR(groups(), STEPS))
    cosine = Cosine().resolve(RUN)
    assert [schedule(s) for s in range(STEPS)] == pytest.approx([cosine(s) for s in range(STEPS)], abs=1e-9)
    apart = from_torch(lr_scheduler.LambdaLR(groups(), [lambda s: 1.0, lambda s: 1.0 if s < 3 else 0.5]))
    assert apart(2) == 1.0
    with pytest.raises(SettingError, match="different factors at step 3: 1, 0.5"):
        apart(3)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a plateau": (lambda: lr_scheduler.ReduceLROnPlateau(sgd()), "use lehr's plateau"),
    "cycled momentum": (
        lambda: lr_scheduler.OneCycleLR(sgd(momentum=0.9), 0.1, 9),
        "make it with cycle_momentum=False",
    ),
    "a rate of 0": (lambda: lr_scheduler.StepLR(sgd(0.0), 3), "made with a rate of 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_function_of_the_step_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(SettingError, match=message):
        from_torch(make())


def test_a_scheduler_that_is_under_way_is_refused() -> None:
    optimizer = sgd()
    scheduler = lr_scheduler.StepLR(optimizer, 3)
    rates(optimizer, scheduler, steps=2)
    with pytest.raises(SettingError, match="is at step 2 already; give a fresh one"):
        from_torch(scheduler)
