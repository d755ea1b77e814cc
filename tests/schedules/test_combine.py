"""Schedules made of schedules: joins, products, repetitions, what they carry along, what cannot be combined."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from lehr.base.durations import Duration, RunLength
from lehr.base.errors import SettingError
from lehr.schedules import (
    COMBINATORS,
    WSD,
    Clipped,
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    Function,
    InverseSqrt,
    Linear,
    Noam,
    OneCycle,
    Plateau,
    Repeated,
    Scaled,
    Then,
    Times,
    Warmup,
    warmup_cosine,
)

STEPS = 500
RUN = RunLength(STEPS, steps_per_epoch=10, tokens_per_step=1000)
CURVES = st.sampled_from([Cosine(), Linear(), Exponential(), CosineRestarts(period="10%"), Constant(), Cyclic(up="5%")])


def values(schedule: Any, run: RunLength = RUN) -> list[float]:
    resolved = schedule.resolve(run)
    return [resolved(step) for step in range(run.steps)]


def torch_rates(make: Callable[[torch.optim.Optimizer], Any]) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
    scheduler = make(optimizer)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def lasting(schedule: Any, steps: int) -> Any:
    given_ = {name: getattr(schedule, name) for name in type(schedule).model_fields}
    return type(schedule)(**given_ | {"length": steps})


def test_the_guides_sequence_is_torchs() -> None:
    """LinearLR(0.1, 5) and then a cosine over the other 95."""
    ours = Linear(start=0.1, end=1, length=25).then(Cosine())

    def theirs(optimizer: torch.optim.Optimizer) -> Any:
        rise = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=25)
        return lr_scheduler.SequentialLR(optimizer, [rise, lr_scheduler.CosineAnnealingLR(optimizer, 475)], [25])

    assert values(ours) == pytest.approx(torch_rates(theirs), abs=1e-9)


def test_warm_up_then_cosine_is_warmup_cosine() -> None:
    joined = values(Warmup(length="10%").then(Cosine(floor=0.1)))
    assert joined == pytest.approx([warmup_cosine(s, total=STEPS, warmup=50, floor=0.1) for s in range(STEPS)])


def test_torchs_chained_scheduler_does_not_multiply_and_ours_does() -> None:
    """The guide's pair: an exponential with a cycle between 0.001 and 0.01."""

    def theirs(optimizer: torch.optim.Optimizer) -> Any:
        fall = lr_scheduler.ExponentialLR(optimizer, 0.99)
        return lr_scheduler.ChainedScheduler([fall, lr_scheduler.CyclicLR(optimizer, 0.001, 0.01, step_size_up=50)])

    chained = torch_rates(theirs)
    ours = values(Times(parts=(Exponential(gamma=0.99, every=1), Cyclic(floor=0.1, up=50))))
    assert chained[350] == pytest.approx(0.01)  # still the whole peak
    assert 0.01 * ours[350] == pytest.approx(0.01 * 0.99**350)
    cycle = [0.1 + 0.9 * (s % 100 if s % 100 <= 50 else 100 - s % 100) / 50 for s in range(STEPS)]
    assert ours == pytest.approx([0.99**s * cycle[s] for s in range(STEPS)])


def test_a_product_is_torchs_where_torchs_is_one() -> None:
    ours = Times(parts=(Exponential(gamma=0.99, every=1), Linear(start=0.5, end=1, length=100)))

    def theirs(optimizer: torch.optim.Optimizer) -> Any:
        rise = lr_scheduler.LinearLR(optimizer, 0.5, total_iters=100)
        return lr_scheduler.ChainedScheduler([rise, lr_scheduler.ExponentialLR(optimizer, 0.99)])

    assert values(ours) == pytest.approx(torch_rates(theirs), abs=1e-9)


def test_repeated_cosines_are_torchs_restarts() -> None:
    theirs = torch_rates(lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 100))
    assert values(Repeated(schedule=Cosine(), times=5)) == pytest.approx(theirs, abs=1e-9)
    assert values(Repeated(schedule=Cosine(length="20%"), times=5)) == pytest.approx(theirs, abs=1e-9)


def test_scaled_and_clipped() -> None:
    plain = values(Cosine())
    assert values(Scaled(schedule=Cosine(), factor=0.3)) == pytest.approx([0.3 * f for f in plain])
    clipped = values(Clipped(schedule=Cosine(), low=0.2, high=0.7))
    assert clipped == pytest.approx([min(0.7, max(0.2, f)) for f in plain])


def test_torchs_constant_lr_is_scaled_and_then() -> None:
    ours = Scaled(schedule=Constant(length=30), factor=1 / 3).then(Constant())
    assert values(ours) == pytest.approx(torch_rates(lambda o: lr_scheduler.ConstantLR(o, 1 / 3, 30)))


def test_the_guides_function_of_three_phases() -> None:
    """Warm-up by epoch/10 (which begins at 0), hold, then 0.1^((epoch-50)/50): as a function, and as parts."""

    def guide(epoch: int) -> float:
        return epoch / 10 if epoch < 10 else 1.0 if epoch < 50 else 0.1 ** ((epoch - 50) / 50)

    run = RunLength(100)
    theirs = torch_rates(lambda o: lr_scheduler.LambdaLR(o, guide))[:100]
    assert values(Function(call=guide), run) == pytest.approx(theirs)
    parts = values(Warmup(length=10).then(Constant(length=40)).then(Exponential(gamma=0.1, every=50)), run)
    assert parts[10:] == pytest.approx(theirs[10:])
    assert theirs[0] == 0 and parts[0] == 0.1


def test_a_function_is_a_part_as_it_is() -> None:
    assert values(Then(parts=(Warmup(length=2), lambda step: 0.5**step)), RunLength(5)) == [0.5, 1.0, 1.0, 0.5, 0.25]
    assert values(Times(parts=(Linear(), lambda step: 2.0)), RunLength(4)) == [2.0, 1.5, 1.0, 0.5]


@given(st.lists(st.integers(0, 80), min_size=1, max_size=5), st.data())
@settings(max_examples=40, deadline=None)
def test_a_sequence_is_its_parts_end_to_end(lengths: list[int], data: Any) -> None:
    # a warm-up is the one that may have no length
    parts = [lasting(data.draw(CURVES), n) if n else Warmup(length=0) for n in lengths]
    last = data.draw(CURVES)
    run = RunLength(sum(lengths) + 50)
    joined = Then(parts=(*parts, last)).resolve(run)
    expected = [p.over(n, run)(s) for p, n in zip(parts, lengths, strict=True) for s in range(n)]
    expected += [last.over(50, run)(s) for s in range(50)]
    assert [joined(step) for step in range(run.steps)] == expected


@given(st.integers(1, 200), st.integers(2, 200))
@settings(max_examples=30, deadline=None)
def test_no_jump_where_the_values_meet(first: int, rest: int) -> None:
    run = RunLength(first + rest)
    joined = Warmup(length=first).then(Cosine()).resolve(run)
    assert joined(first - 1) == joined(first) == 1.0
    steepest = max(1 / first, math.pi / 2 / rest)
    steps = [joined(s) for s in range(run.steps)]
    assert all(abs(b - a) <= steepest + 1e-12 for a, b in itertools.pairwise(steps))


@given(st.integers(1, 20), st.integers(1, 40), st.integers(0, 60))
@settings(max_examples=30, deadline=None)
def test_repetitions_have_their_period_and_keep_the_last_value(times: int, each: int, left: int) -> None:
    run = RunLength(times * each + left)
    schedule = Repeated(schedule=Linear(length=each), times=times).resolve(run)
    one = [1 - s / each for s in range(each)]
    assert [schedule(s) for s in range(run.steps)] == pytest.approx(one * times + [0.0] * left)


def test_lengths_in_every_unit() -> None:
    same = [Warmup(length=given_).then(Cosine()) for given_ in (50, "10%", "5 epochs", "50k tokens")]
    assert len({tuple(values(schedule)) for schedule in same}) == 1


def test_nested_sequences_have_the_length_of_their_parts() -> None:
    inner = Warmup(length=10).then(Cosine(length=90))
    nested = values(inner.then(Scaled(schedule=inner, factor=0.5)).then(Constant()))
    flat = values(inner)
    assert nested[:100] == flat[:100]
    assert nested[100:200] == pytest.approx([f / 2 for f in flat[:100]])
    assert set(nested[200:]) == {1.0}
    assert inner.lasts(RUN) == 100 and inner.then(Constant()).lasts(RUN) is None
    assert Repeated(schedule=inner, times=3).lasts(RUN) == 300
    assert Times(parts=(inner, Linear(length=20))).lasts(RUN) == 100
    assert Clipped(schedule=inner, length=200).lasts(RUN) == 200


def test_past_its_end_a_combination_keeps_its_last_value() -> None:
    sequence = Warmup(length=10).then(Cosine(length=90, floor=0.25)).resolve(RUN)
    assert {sequence(s) for s in range(100, 600)} == {0.25}


SHARES: dict[str, Any] = {
    "two halves": Warmup(length="50%").then(Cosine(length="50%")),
    "thirds and a bit": Then(parts=tuple(Linear(length=share) for share in ("33.3%", "33.3%", "33.4%"))),
    "nested halves": Linear(length="50%").then(Warmup(length="25%").then(Cosine(length="25%"))),
    "a product of halves": Linear(length="50%").then(Times(parts=(Linear(length="50%"), Cosine(length="50%")))),
    "halves of the stable": Constant(warmup="50%", length="50%").then(Constant(warmup="50%", length="50%")),
    "repeated halves": Repeated(schedule=Cosine(length="50%"), times=2),
    "repeated eighths": Repeated(schedule=Linear(length="12.5%"), times=8),
    "a repetition in the second half": Linear(length="50%").then(Repeated(schedule=Cosine(length="25%"), times=2)),
    "equal shares": Repeated(schedule=Linear(), times=3),
    "wsd": WSD(warmup="50%", decay="50%"),
    "wsd in quarters": WSD(warmup="37.5%", decay="62.5%"),
    "half of it wsd": Linear(length="50%").then(WSD(warmup="10%", decay="40%", length="50%")),
}


@pytest.mark.parametrize("name", SHARES)
def test_shares_of_the_whole_fill_a_run_of_any_length(name: str) -> None:
    for steps in range(8, 201):
        run = RunLength(steps)
        schedule = SHARES[name].resolve(run)
        found = [schedule(step) for step in range(steps)]
        assert all(0 <= factor <= 1 for factor in found)
        assert SHARES[name].lasts(run) in (None, steps)


@given(st.integers(1, 200), st.lists(st.integers(1, 1000), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_parts_end_at_the_steps_nearest_to_their_ends(steps: int, weights: list[int]) -> None:
    shares = [weight * 100 / sum(weights) for weight in weights]
    ends = [math.floor(sum(weights[: n + 1]) * steps / sum(weights) + 0.5) for n in range(len(weights))]
    wholes = [end - start for start, end in itertools.pairwise([0, *ends])]
    parts = Then(parts=tuple(Function(call=float, length=Duration(min(share, 100.0), "%")) for share in shares))
    near_a_half = any(abs(sum(weights[:n]) * steps / sum(weights) % 1 - 0.5) < 1e-9 for n in range(len(weights)))
    if 0 in wholes or near_a_half or any(share * steps < 50.001 for share in shares):
        return
    schedule = parts.resolve(RunLength(steps))
    assert [schedule(step) for step in range(steps)] == [float(s) for whole in wholes for s in range(whole)]


def test_lengths_in_steps_stay_as_they_are_beside_shares() -> None:
    parts = (Function(call=lambda s: 1.0, length="35%"), Function(call=lambda s: 2.0, length=5), lambda s: 3.0)
    for steps in range(10, 200):
        assert values(Then(parts=parts), RunLength(steps)).count(2.0) == 5


def test_a_part_that_is_left_no_step_is_refused() -> None:
    halves = Linear(length="50%").then(Cosine(length="50%"))
    with pytest.raises(
        SettingError, match="Cosine is left 0 steps of a run of 1, as the parts of a sequence end at whole steps"
    ):
        halves.resolve(RunLength(1))


def test_a_warm_up_of_no_step_changes_nothing_wherever_it_stands() -> None:
    run = RunLength(8)
    plain = values(Cosine(length=5), run)
    for none in (0, "0%", "0.1%"):
        assert values(Cosine(length=5).then(Warmup(length=none)), run) == plain
        assert values(Warmup(length=none).then(Cosine(length=5)), run) == plain
        assert values(Cosine(length=5).then(Warmup(length=none)).then(Warmup(length=none)), run) == plain
    assert values(Warmup(length=0).then(Warmup(length=0)), run) == [1.0] * 8


def test_repetitions_of_uneven_length_share_the_steps() -> None:
    assert values(Repeated(schedule=Linear(), times=2), RunLength(5)) == pytest.approx([1, 2 / 3, 1 / 3, 1, 1 / 2])
    same = Then(parts=(Linear(length="50%"),) * 2)
    assert values(Repeated(schedule=Linear(length="50%"), times=2), RunLength(5)) == values(same, RunLength(5))


def test_momentum_is_carried_along() -> None:
    cycle = OneCycle(cycle_momentum=(0.85, 0.95))
    alone = cycle.momentum(RUN)
    for carried in (Scaled(schedule=cycle, factor=0.5), Clipped(schedule=cycle), Times(parts=(Linear(), cycle))):
        momentum = carried.momentum(RUN)
        assert [momentum(s) for s in range(STEPS)] == [alone(s) for s in range(STEPS)]
        assert carried.moves_momentum
    half = OneCycle(cycle_momentum=(0.85, 0.95), length="50%")
    twice = [Repeated(schedule=half, times=2), half.then(cycle)]
    first = half.momentum(RUN)
    for carried in twice:
        momentum = carried.momentum(RUN)
        assert [momentum(s) for s in range(STEPS)] == [first(s % 250) for s in range(STEPS)]
    assert Warmup(length=3).then(Cosine()).momentum(RUN) is None


def test_rates_themselves_stay_rates() -> None:
    assert Scaled(schedule=Noam(), factor=2).absolute
    assert Times(parts=(Noam(), Linear())).absolute
    assert Repeated(schedule=Noam(), times=2).absolute and Clipped(schedule=Noam()).absolute
    assert not Warmup().then(Cosine()).absolute
    doubled = Scaled(schedule=Noam(warmup=100), factor=2).resolve(RUN)
    assert doubled(99) == pytest.approx(2 * (512 * 100) ** -0.5)


CYCLE = OneCycle(cycle_momentum=(0.85, 0.95))
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "parts longer than the run": (
        lambda: Warmup(length=300).then(Cosine(length=300)).resolve(RUN),
        r"the parts of a sequence last 300 \+ 300 steps, but there are 500; make them shorter",
    ),
    "nothing left for the last": (
        lambda: Warmup(length=500).then(Cosine()).resolve(RUN),
        "last 500 steps, which leaves none of 500 for Cosine",
    ),
    "two parts without a length": (
        lambda: Then(parts=(Cosine(), Cosine())).resolve(RUN),
        "Cosine is followed by another schedule, so it needs a length",
    ),
    "an inner part longer than its room": (
        lambda: Warmup(length=490).then(Scaled(schedule=Cosine(length=20), factor=1)).resolve(RUN),
        "last 490 \\+ 20 steps",
    ),
    "no parts": (lambda: Then(parts=()), "parts"),
    "what is no schedule": (lambda: Times(parts=(Cosine(), 0.1)), "0.1 is no schedule; give settings such as"),
    "a class": (lambda: Then(parts=(Cosine,)), "is no schedule"),
    "bounds the wrong way round": (lambda: Clipped(schedule=Cosine(), low=0.9, high=0.1), "low=0.9 is above high=0.1"),
    "a scale of 0": (lambda: Scaled(schedule=Cosine(), factor=0), "factor=0 is refused"),
    "no repetition": (lambda: Repeated(schedule=Cosine(), times=0), "times=0 is refused"),
    "more repetitions than steps": (
        lambda: Repeated(schedule=Cosine(), times=501).resolve(RUN),
        "Cosine cannot be repeated 501 times in 500 steps",
    ),
    "repetitions beyond the run": (
        lambda: Repeated(schedule=Cosine(length=200), times=3).resolve(RUN),
        "lasts 600 steps, but the run has 500",
    ),
    "repetitions beyond their own length": (
        lambda: Repeated(schedule=Cosine(length=200), times=2, length=300).resolve(RUN),
        "cannot be repeated 2 times in 300 steps when it lasts 200",
    ),
    "repeating a memory": (lambda: Repeated(schedule=Plateau(), times=2).resolve(RUN), "has a memory"),
    "momentum in one part of a sequence": (
        lambda: Warmup(length=9).then(CYCLE),
        "OneCycle cycles the momentum and Warmup does not, .*use cycle_momentum=none",
    ),
    "momentum in two factors": (lambda: Times(parts=(CYCLE, CYCLE)), "OneCycle and OneCycle both cycle the momentum"),
    "rates before factors": (
        lambda: Noam(length=100).then(Cosine()),
        "Noam gives rates themselves and Cosine does not, .*use inverse_sqrt",
    ),
    "rates times rates": (lambda: Times(parts=(Noam(), Noam())), "both give rates themselves"),
    "a function that is none": (lambda: Function(call=3), "call=3 is refused"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_combined_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(SettingError, match=message):
        make()


def test_a_part_that_gives_factors_may_follow_another() -> None:
    assert values(InverseSqrt(length="50%").then(Linear()))[250] == 1.0


def test_every_combination_says_what_it_is() -> None:
    assert list(COMBINATORS) == ["then", "times", "scaled", "repeated", "clipped"]
    assert all(row.summary for row in COMBINATORS.values())
