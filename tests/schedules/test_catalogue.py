"""Each schedule against torch's scheduler of the same name, or its formula written out, at every one of 500 steps."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from lehr.base.durations import RunLength
from lehr.base.errors import SettingError
from lehr.schedules import (
    SCHEDULES,
    WSD,
    Annealing,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    InverseSqrt,
    Linear,
    MultiStep,
    Noam,
    OneCycle,
    Polynomial,
    Schedule,
    StepDecay,
    Warmup,
    WarmupCosine,
    cosine_restarts,
    cyclic,
    noam,
    step_decay,
)

STEPS = 500
RUN = RunLength(STEPS, steps_per_epoch=10)


def torchs(key: str, make: Callable[[torch.optim.Optimizer], Any], steps: int = STEPS, lr: float = 1.0) -> list[float]:
    """Return torch's "lr" or "momentum", step by step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, momentum=0.9)
    scheduler = make(optimizer)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0][key])
        optimizer.step()
        scheduler.step()
    return values


TORCHS: dict[str, tuple[Any, Callable[[torch.optim.Optimizer], Any]]] = {
    "step": (StepDecay(every="15 epochs", gamma=0.3), lambda o: lr_scheduler.StepLR(o, 150, 0.3)),
    "multi_step": (
        MultiStep(milestones=["10%", 200, "40 epochs"], gamma=0.5),
        lambda o: lr_scheduler.MultiStepLR(o, [50, 200, 400], 0.5),
    ),
    "exponential": (Exponential(gamma=0.99, every=1), lambda o: lr_scheduler.ExponentialLR(o, 0.99)),
    "cosine": (Cosine(floor=0.05), lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, 0.05)),
    "cosine_restarts": (
        CosineRestarts(period=30, period_mult=2, floor=0.1),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 30, 2, 0.1),
    ),
    "cosine_restarts of one length": (
        CosineRestarts(period="5 epochs"),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 50),
    ),
    "linear": (Linear(start=0.1, end=1, length=300), lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 300)),
    "polynomial": (Polynomial(power=0.9), lambda o: lr_scheduler.PolynomialLR(o, STEPS, 0.9)),
    "one_cycle": (OneCycle(), lambda o: lr_scheduler.OneCycleLR(o, 1.0, STEPS)),
    "one_cycle, straight": (
        OneCycle(anneal="linear", pct_start=0.4, div_factor=10, final_div_factor=100),
        lambda o: lr_scheduler.OneCycleLR(
            o, 1.0, STEPS, pct_start=0.4, anneal_strategy="linear", div_factor=10, final_div_factor=100
        ),
    ),
    "one_cycle in three phases": (
        OneCycle(three_phase=True, pct_start=0.37),
        lambda o: lr_scheduler.OneCycleLR(o, 1.0, STEPS, three_phase=True, pct_start=0.37),
    ),
    "cyclic": (Cyclic(floor=0.2, up=30, down=70), lambda o: lr_scheduler.CyclicLR(o, 0.2, 1.0, 30, 70)),
    "cyclic, halved": (
        Cyclic(floor=0.2, up="10%", mode="triangular2"),
        lambda o: lr_scheduler.CyclicLR(o, 0.2, 1.0, 50, mode="triangular2"),
    ),
    "cyclic, exponential": (
        Cyclic(floor=0.2, up=40, down=20, mode="exp_range", gamma=0.995),
        lambda o: lr_scheduler.CyclicLR(o, 0.2, 1.0, 40, 20, mode="exp_range", gamma=0.995),
    ),
}


@pytest.mark.parametrize("name", TORCHS)
def test_is_torchs_at_every_step(name: str) -> None:
    ours, theirs = TORCHS[name]
    schedule = ours.resolve(RUN)
    assert [schedule(step) for step in range(STEPS)] == pytest.approx(torchs("lr", theirs), abs=1e-9)


MOMENTA: dict[str, tuple[Any, Callable[[torch.optim.Optimizer], Any]]] = {
    "one_cycle": (OneCycle(cycle_momentum=(0.85, 0.95)), lambda o: lr_scheduler.OneCycleLR(o, 1.0, STEPS)),
    "one_cycle in three phases": (
        OneCycle(cycle_momentum=(0.7, 0.9), three_phase=True, anneal="linear"),
        lambda o: lr_scheduler.OneCycleLR(
            o, 1.0, STEPS, three_phase=True, anneal_strategy="linear", base_momentum=0.7, max_momentum=0.9
        ),
    ),
    "cyclic": (Cyclic(cycle_momentum=(0.8, 0.9), up=30), lambda o: lr_scheduler.CyclicLR(o, 0.01, 1.0, 30)),
    "cyclic, halved": (
        Cyclic(cycle_momentum=(0.8, 0.9), up=30, mode="triangular2"),
        lambda o: lr_scheduler.CyclicLR(o, 0.01, 1.0, 30, mode="triangular2"),
    ),
}


@pytest.mark.parametrize("name", MOMENTA)
def test_momentum_is_torchs_at_every_step(name: str) -> None:
    ours, theirs = MOMENTA[name]
    momentum = ours.momentum(RUN)
    assert [momentum(step) for step in range(STEPS)] == pytest.approx(torchs("momentum", theirs), abs=1e-9)


@pytest.mark.parametrize("kind", [Cosine, OneCycle, Cyclic, Warmup])
def test_momentum_is_left_alone_unless_asked_for(kind: Any) -> None:
    assert kind().momentum(RUN) is None
    assert not kind().moves_momentum


FORMULAS: dict[str, tuple[Any, Callable[[int], float]]] = {
    "step": (StepDecay(every=70, gamma=0.5), lambda s: 0.5 ** math.floor(s / 70)),
    "exponential": (Exponential(gamma=0.95, every="1 epoch"), lambda s: math.exp(-s / 10 * -math.log(0.95))),
    "cosine": (Cosine(floor=0.2), lambda s: 0.2 + 0.4 * (1 + math.cos(math.pi * s / STEPS))),
    "linear": (Linear(), lambda s: 1 - s / STEPS),
    "polynomial": (Polynomial(power=3, floor=0.1), lambda s: 0.1 + 0.9 * (1 - s / STEPS) ** 3),
    "warmup": (Warmup(length=40), lambda s: min((s + 1) / 40, 1)),
    "warmup from a share": (Warmup(length=40, start=0.2), lambda s: 0.2 + 0.8 * min((s + 1) / 40, 1)),
    "warmup, exponential": (
        Warmup(length=40, form="exponential", start=1e-3),
        lambda s: min(1.0, 10 ** (-3 * (1 - (s + 1) / 40))),
    ),
    "inverse_sqrt": (
        InverseSqrt(warmup=100),
        lambda s: (s + 1) / 100 if s < 100 else 10 / math.sqrt(s + 1),
    ),
    "noam": (
        Noam(d_model=256, warmup=100),
        lambda s: 256**-0.5 * min((s + 1) ** -0.5, (s + 1) * 100**-1.5),
    ),
    "annealing": (Annealing(every=1), lambda s: max(0.01, 1.0 * 0.99**s)),
    "annealing by the epoch": (
        Annealing(temperature=0.8, floor=0.3, alpha=0.9, every="1 epoch"),
        lambda s: max(0.3, 0.8 * 0.9 ** (s / 10)),
    ),
    "wsd": (
        WSD(warmup=50, decay=100, floor=0.1),
        lambda s: (s + 1) / 50 if s < 50 else 1.0 if s < 400 else 1 - 0.9 * (s - 400) / 100,
    ),
    "wsd with a cosine": (
        WSD(warmup=0, decay=100, form="cosine"),
        lambda s: 1.0 if s < 400 else 0.5 + 0.5 * math.cos(math.pi * (s - 400) / 100),
    ),
    "wsd with a root": (
        WSD(warmup=0, decay=100, form="1-sqrt"),
        lambda s: 1.0 if s < 400 else 1 - ((s - 400) / 100) ** 0.5,
    ),
    "cyclic as a sine": (
        Cyclic(floor=0.2, up=25, mode="sine"),
        lambda s: 0.6 - 0.4 * math.sin(2 * math.pi * s / 50 + math.pi / 2),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_is_its_formula_at_every_step(name: str) -> None:
    settings_, formula = FORMULAS[name]
    schedule = settings_.resolve(RUN)
    assert [schedule(s) for s in range(STEPS)] == pytest.approx([formula(s) for s in range(STEPS)], abs=1e-12)


def test_the_guides_step_decay_has_no_floor_and_ours_has() -> None:
    """Its formula gamma^(epoch/N) is a smooth exponential; its own table needs whole powers."""
    guide = [1e-3 * 0.1 ** (epoch / 30) for epoch in (0, 29, 45)]
    ours = [1e-3 * step_decay(epoch, every=30) for epoch in range(90)]
    assert guide == pytest.approx([1e-3, 1.0798e-4, 3.162e-5], rel=1e-3)
    assert ours == pytest.approx([1e-3] * 30 + [1e-4] * 30 + [1e-5] * 30)


def test_the_guides_table_of_milestones() -> None:
    schedule = MultiStep(milestones=[50, 75, 90]).resolve(RunLength(100))
    rates = [0.1 * schedule(epoch) for epoch in range(100)]
    assert rates == pytest.approx([0.1] * 50 + [0.01] * 25 + [0.001] * 15 + [1e-4] * 10)


def test_half_life_of_an_exponential() -> None:
    schedule = Exponential(gamma=0.95, every=1).resolve(RUN)
    assert schedule(round(math.log(2) / -math.log(0.95))) == pytest.approx(0.5, abs=0.02)


def test_stepped_by_the_epoch_as_in_the_guide() -> None:
    """StepLR(10, 0.1) with Adam at 1e-3, stepped after each of 50 epochs of 10 batches."""
    schedule = StepDecay(every="10 epochs", gamma=0.1).resolve(RUN)
    by_epoch = torchs("lr", lambda o: lr_scheduler.StepLR(o, 10, 0.1), steps=50, lr=1e-3)
    assert [1e-3 * schedule(10 * epoch) for epoch in range(50)] == pytest.approx(by_epoch)
    assert [1e-3 * schedule(10 * epoch + 9) for epoch in range(50)] == pytest.approx(by_epoch)


def test_the_guides_last_rate_of_one_cycle_is_not_torchs() -> None:
    """It says max_lr / final_div_factor; the policy ends at initial_lr / final_div_factor."""
    schedule = OneCycle(pct_start=0.3, div_factor=25, final_div_factor=1e4).resolve(RunLength(1000))
    guide = 0.1 / 1e4
    theirs = torchs("lr", lambda o: lr_scheduler.OneCycleLR(o, 0.1, 1000, cycle_momentum=False), steps=999)
    assert guide == pytest.approx(1e-5)
    assert 0.1 * schedule(999) == pytest.approx(4e-7)
    assert 0.1 * schedule(998) == pytest.approx(theirs[-1])
    assert 0.1 * schedule(299) == pytest.approx(0.1)
    assert 0.1 * schedule(0) == pytest.approx(0.004)
    assert schedule(5000) == schedule(999)  # torch raises an error there


def test_the_usual_warm_up_with_cosine_but_for_the_first_updates() -> None:
    """1000 of 10 000 steps: the common helper rises along step / W, so its first update has a rate of 0."""

    def helper(step: int) -> float:
        if step < 1000:
            return step / 1000
        return 0.5 * (1 + math.cos(math.pi * (step - 1000) / 9000))

    schedule = WarmupCosine(warmup=1000).resolve(RunLength(10_000))
    assert helper(0) == 0 and schedule(0) == 1 / 1000
    assert [schedule(s) for s in range(1000)] == pytest.approx([helper(s + 1) for s in range(999)] + [1.0])
    assert [schedule(s) for s in range(1000, 10_000)] == pytest.approx([helper(s) for s in range(1000, 10_000)])


def test_noam_by_hand() -> None:
    rates = [noam(step) for step in range(20_000)]
    assert max(rates) == rates[3999] == pytest.approx(6.9877e-4, rel=1e-4)
    assert rates[0] == pytest.approx(512**-0.5 * 4000**-1.5)
    assert rates[15_999] == pytest.approx(rates[3999] / 2)
    assert Noam().absolute and not Cosine().absolute


def test_noam_is_the_inverse_square_root_at_its_peak() -> None:
    absolute, relative = Noam(d_model=64, warmup=50).resolve(RUN), InverseSqrt(warmup=50).resolve(RUN)
    peak = (64 * 50) ** -0.5
    assert [absolute(s) for s in range(STEPS)] == pytest.approx([peak * relative(s) for s in range(STEPS)])


def test_restarts_come_back_lower_with_a_decay() -> None:
    factors = [cosine_restarts(s, period=10, period_mult=3, floor=0.2, peak_decay=0.5) for s in (0, 10, 40, 130)]
    assert factors == pytest.approx([1.0, 0.6, 0.4, 0.3])


def test_a_plain_cosine_never_rises_and_one_with_restarts_does() -> None:
    """The guide calls cosine annealing oscillating; only the form with restarts comes back."""
    once, again = Cosine().resolve(RUN), CosineRestarts().resolve(RUN)
    assert all(once(s + 1) <= once(s) for s in range(STEPS))
    assert sum(again(s + 1) > again(s) for s in range(STEPS - 1)) == 3


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from(["triangular", "sine"]))
@settings(max_examples=30, deadline=None)
def test_cycles_have_their_period_and_reach_both_bounds(up: int, down: int, mode: Any) -> None:
    values = [cyclic(s, up=up, down=down, floor=0.3, mode=mode) for s in range(2 * (up + down))]
    assert values[: up + down] == values[up + down :]
    assert values[0] == pytest.approx(0.3) and values[up] == pytest.approx(1.0)
    assert min(values) >= 0.3 - 1e-12 and max(values) <= 1 + 1e-12


@pytest.mark.parametrize(
    "settings_",
    [
        Cyclic(up=1, mode="triangular2", floor=0.0),
        Cyclic(up=1, mode="exp_range", gamma=0.5, floor=0.0),
        CosineRestarts(period=1, peak_decay=0.1),
        StepDecay(every=1, gamma=0.1),
        Exponential(every=1, gamma=0.1),
        Exponential(every="1e-320%", gamma=0.1),
        Annealing(every=1, alpha=0.1, floor=0.0),
    ],
    ids=str,
)
def test_what_falls_for_very_long_ends_at_0(settings_: Any) -> None:
    schedule = settings_.resolve(RunLength(10**7))
    assert [schedule(step) for step in (5_001, 10**7 - 1)] == [0.0, 0.0]


@given(st.integers(3, 3000), st.floats(0.01, 0.49), st.booleans(), st.sampled_from(["cos", "linear"]))
@settings(max_examples=40, deadline=None)
def test_one_cycle_stays_below_its_peak_and_ends_low(steps: int, share: float, three: bool, form: Any) -> None:
    schedule = OneCycle(pct_start=share, three_phase=three, anneal=form).resolve(RunLength(steps))
    values = [schedule(step) for step in range(steps)]
    assert all(0 < value <= 1 + 1e-12 for value in values)
    assert values[-1] == pytest.approx(1 / 250_000) == schedule(steps + 7)


def wsd_area(form: Any) -> float:
    schedule = WSD(warmup=0, decay=100, form=form).resolve(RUN)
    return statistics.fmean(schedule(s) for s in range(400, 500))


def test_forms_of_the_last_fall_take_less_and_less() -> None:
    """The integrals of 1 - t, (1 + cos(pi t))/2 and 1 - sqrt(t) are 1/2, 1/2 and 1/3."""
    areas = [wsd_area(form) for form in ("linear", "cosine", "1-sqrt")]
    assert areas == pytest.approx([1 / 2, 1 / 2, 1 / 3], abs=0.01)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "gamma above 1": (lambda: StepDecay(gamma=1.5), "gamma=1.5 is refused"),
    "gamma of 0": (lambda: Exponential(gamma=0), "gamma=0 is refused"),
    "gamma of NaN": (lambda: MultiStep(gamma=float("nan")), "gamma=nan is refused"),
    "no milestones": (lambda: MultiStep(milestones=[]), "milestones"),
    "milestones out of order": (lambda: MultiStep(milestones=[60, 30]).resolve(RUN), "60, 30, which are out of order"),
    "a milestone beyond the run": (
        lambda: MultiStep(milestones=[30, 600]).resolve(RUN),
        "milestones are the steps 30, 600, but there are 500",
    ),
    "a milestone at 0": (lambda: MultiStep(milestones=[0, 30]).resolve(RUN), "use 1 to 500"),
    "a step of no steps": (lambda: StepDecay(every="0.01%").resolve(RUN), "every=0.01% is 0 steps of a run of 500"),
    "a period of no steps": (lambda: CosineRestarts(period=0).resolve(RUN), "period=0 steps is 0 steps"),
    "a half multiple of the period": (lambda: CosineRestarts(period_mult=0), "period_mult=0 is refused"),
    "no time for gamma": (lambda: Exponential(every=0).resolve(RUN), "every=0 steps is no time"),
    "no time for alpha": (lambda: Annealing(every=0).resolve(RUN), "every=0 steps is no time"),
    "a floor above the peak": (lambda: Cosine(floor=1.2), "floor=1.2 is refused"),
    "a floor above the temperature": (lambda: Annealing(temperature=0.1, floor=0.2), "floor=0.2 is above temperature"),
    "a temperature of 0": (lambda: Annealing(temperature=0), "temperature=0 is refused"),
    "alpha of 1": (lambda: Annealing(alpha=1), "alpha=1 is refused"),
    "a line below 0": (lambda: Linear(end=-0.1), "end=-0.1 is refused"),
    "a power of 0": (lambda: Polynomial(power=0), "power=0 is refused"),
    "one cycle without a rise": (lambda: OneCycle(pct_start=0), "pct_start=0 is refused"),
    "three phases without room": (
        lambda: OneCycle(three_phase=True, pct_start=0.6),
        "use at most 0.5 with three_phase",
    ),
    "a momentum upside down": (lambda: OneCycle(cycle_momentum=(0.95, 0.85)), "0 <= low < high < 1"),
    "a momentum of 1": (lambda: Cyclic(cycle_momentum=(0.5, 1.0)), "0 <= low < high < 1"),
    "gamma without exp_range": (lambda: Cyclic(gamma=0.9), "gamma=0.9 has no effect with mode=triangular"),
    "a cycle without a rise": (lambda: Cyclic(up=0).resolve(RUN), "up=0 steps is 0 steps"),
    "another mode": (lambda: Cyclic(mode="triangle"), "did you mean 'triangular'"),
    "a warm-up longer than the run": (
        lambda: InverseSqrt(warmup=501).resolve(RUN),
        "is 501 steps, but the run has 500",
    ),
    "noam for a longer run": (lambda: Noam(warmup=4000).resolve(RUN), "is 4000 steps, but the run has 500"),
    "warm-up and decay beyond the run": (lambda: WSD(warmup="60%", decay="50%").resolve(RUN), "300 \\+ 250 steps"),
    "an exponential rise from 0": (lambda: Warmup(form="exponential"), "cannot rise from 0; give a start"),
    "epochs of data without an end": (lambda: StepDecay(every="3 epochs").resolve(RunLength(9)), "no known length"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(SettingError, match=message):
        make()


def descend(schedule: Schedule, lr: float, steps: int = 400) -> float:
    """Return the mean loss at the end of gradient descent on x²/2 with noise in the gradient, over 1000 copies."""
    generator = torch.Generator().manual_seed(0)
    x = torch.full((1000,), 10.0, dtype=torch.float64)
    for step in range(steps):
        noise = torch.randn(len(x), generator=generator, dtype=torch.float64)
        x = x - lr * schedule(step) * (x + 3 * noise)
    return float((x * x / 2).mean())


def test_hot_then_cold_ends_lower_than_either_alone() -> None:
    """A large rate keeps moving, a small one does not arrive; a decay does both in turn."""
    decayed = descend(Cosine().resolve(RunLength(400)), lr=0.5)
    large, small = descend(lambda _: 1.0, lr=0.5), descend(lambda _: 1.0, lr=0.002)
    assert decayed < large / 10
    assert decayed < small / 10


CARDS = Path(__file__).parents[2] / "src" / "lehr" / "cards"
MEASURED = re.compile(r"mean loss ([\d.]+) at the end")


def test_what_the_cards_measured_is_measured_again() -> None:
    compared = []
    for name, row in SCHEDULES.items():
        card = (
            CARDS / f"{ {'constant': 'constant-schedule', 'step': 'step-decay'}.get(name, name.replace('_', '-')) }.md"
        )
        if found := MEASURED.search(card.read_text().replace("\n", " ")):
            assert float(found[1].rstrip(".")) == pytest.approx(
                descend(row.make().resolve(RunLength(400)), lr=0.5), rel=0.03
            )
            compared.append(name)
    assert set(SCHEDULES) - set(compared) == {"noam", "plateau"}


def test_too_large_a_rate_diverges_and_too_small_a_one_crawls() -> None:
    """On x²/2 an update multiplies x by 1 - lr: by -1.1, 0.5 and 0.999."""
    ends = [abs(10 * (1 - lr) ** 50) for lr in (2.1, 0.5, 0.001)]
    assert ends[0] > 1000 and ends[1] < 1e-10 and ends[2] > 9
