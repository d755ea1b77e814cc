"""Two recipes against one another: windows of steps in turn, their ratio with an interval, and what the loss says."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lehr.base.errors import SettingError
from lehr.measurement.arm import Arm, ArmState
from lehr.measurement.intervals import CONFIDENCE, Interval, Verdict, least_pairs, median_interval, verdict
from lehr.measurement.worker import Source, both

__all__ = ["Comparison", "Side", "compare", "measure", "pooled"]

WINDOW_SECONDS = 0.2
"""A window is about so long: far over the resolution of clocks, and short beside the drift of a machine."""
WARM = 5
"""Steps before anything is counted, and more where they go on becoming faster,"""
WARMEST = 100
"""up to so many."""
ONE_PAIR = 0.05
"""By how much a winner has to be ahead where each side is one process: two of one recipe differ by as much."""
BUDGET = 60.0
"""Seconds for everything, if nothing else is asked for."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one of two recipes came to."""

    seconds_per_step: float
    """Median over its windows."""
    start_seconds: float
    """To put the run together, data and model included."""
    warm_up_seconds: float
    """What its first steps took over what such steps take later: compilation, mostly."""
    compilations: int | None
    peak_bytes: int
    loss: float | None
    """Validation loss when both had made equally many steps."""
    loss_at_equal_time: float | None
    """Validation loss when both had trained for equally long, warm-up included."""
    steps_at_equal_time: int | None


_PLAIN = ("confidence", "verdict", "pairs", "processes", "window_steps", "steps")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How many times as fast B is, and at which loss."""

    a: Side
    b: Side
    ratio: Interval
    """A's seconds over B's, window by window: above 1, B is faster."""
    confidence: float
    verdict: Verdict
    pairs: int
    processes: int
    """How many pairs of processes the pairs of windows are from."""
    window_steps: int
    steps: int
    """How many steps both had made when the loss was compared."""
    train_loss_delta: float | None
    """By which share B's recorded training losses are above A's on the same steps, in the later half of them."""
    notes: tuple[str, ...]
    ratios: tuple[float, ...] = dataclasses.field(repr=False)
    """The ratio of each pair of windows."""
    seconds: float
    """What both trained in all, warm-up included."""

    @property
    def loss_delta(self) -> float | None:
        """By which share B's validation loss is above A's after equally many steps."""
        return _share(self.a.loss, self.b.loss)

    @property
    def repaid_after(self) -> int | None:
        """After how many steps B has made up for a longer warm-up, 0 where it has none; None where it is not faster."""
        if self.verdict != "faster":
            return None
        cost = self.b.warm_up_seconds - self.a.warm_up_seconds
        return max(0, math.ceil(cost / (self.a.seconds_per_step - self.b.seconds_per_step)))

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        own = {name: getattr(self, name) for name in _PLAIN}
        ratio = {"ratio": self.ratio.median, "low": self.ratio.low, "high": self.ratio.high}
        loss = {"loss_delta": self.loss_delta, "train_loss_delta": self.train_loss_delta}
        sides = {"a": dataclasses.asdict(self.a), "b": dataclasses.asdict(self.b)}
        return ratio | own | loss | {"repaid_after": self.repaid_after} | sides | {"notes": list(self.notes)}


def _share(one: float | None, other: float | None) -> float | None:
    return (other - one) / abs(one) if one and other is not None else None


class _Timed:
    """An arm with the account of its time."""

    def __init__(self, arm: Arm) -> None:
        self.arm = arm
        self.seconds = 0.0
        self.rates: list[float] = []

    def run(self, steps: int) -> float:
        """Train so many steps; returns the seconds of one."""
        window = self.arm.window(steps)
        self.seconds += window.seconds
        return window.seconds_per_step

    def warm_up(self) -> int:
        """Train until steps take what they will take from now on; returns how many that were."""
        taken: list[float] = []
        while len(taken) < WARM or (len(taken) < WARMEST and max(taken[-3:]) > 2 * min(taken)):
            taken.append(self.run(1))
        self.steady = statistics.median(taken[-3:])
        self.warm_up_seconds = max(0.0, sum(taken) - len(taken) * self.steady)
        return len(taken)


def compare(
    a: Arm,
    b: Arm,
    *,
    budget: float = BUDGET,
    confidence: float = CONFIDENCE,
    window_seconds: float = WINDOW_SECONDS,
    validate: bool = True,
    sparing: bool = False,
) -> Comparison:
    """Compare two arms in about ``budget`` seconds; half of them, if ``sparing`` and half is enough.

    Both are warmed up by equally many steps. Then come pairs of windows with the same number of steps, as many as the
    budget allows, decided beforehand; which of the two begins a pair is drawn. The ratio's interval is that of
    `lehr.measurement.intervals.median_interval`, for these two arms; since processes of one recipe differ, a winner has
    to be ahead by more than `ONE_PAIR`. Raises SettingError where the budget allows fewer pairs than an interval of
    this confidence needs.
    """
    started = time.perf_counter()
    least = least_pairs(confidence)
    one, other = _Timed(a), _Timed(b)
    warmed = [arm.warm_up() for arm in (one, other)]
    for arm, steps in zip((one, other), warmed, strict=True):  # equally many, so that both see the same batches
        if steps < max(warmed):
            arm.run(max(warmed) - steps)
    warm = time.perf_counter() - started
    left = budget - warm
    if sparing and budget / 2 - warm >= least * (one.steady + other.steady):
        left = budget / 2 - warm
    steps, pairs = _plan(one.steady, other.steady, left, least, window_seconds)
    draw = random.Random(0)
    for _ in range(pairs):
        for arm in (one, other) if draw.random() < 0.5 else (other, one):
            arm.rates.append(arm.run(steps))
    ratios = tuple(x / y for x, y in zip(one.rates, other.rates, strict=True))
    ratio = median_interval(ratios, confidence)
    seconds = one.seconds + other.seconds
    states, notes = (a.state(), b.state()), []
    losses = [arm.validate() for arm in (a, b)] if validate else [None, None]
    at_equal_time: tuple[Late | None, Late | None] = (None, None)
    if validate and losses[0] is not None:
        at_equal_time, note = _at_equal_time((one, other), states, losses)
        notes += [note] if note else []
    sides = [
        Side(
            seconds_per_step=statistics.median(arm.rates),
            start_seconds=state.start_seconds,
            warm_up_seconds=arm.warm_up_seconds,
            compilations=state.compilations,
            peak_bytes=state.peak_bytes,
            loss=loss,
            loss_at_equal_time=late[0] if late else None,
            steps_at_equal_time=late[1] if late else None,
        )
        for arm, state, loss, late in zip((one, other), states, losses, at_equal_time, strict=True)
    ]
    if any(state.runs > 1 for state in states):
        notes.append(f"the run of {states[0].total_steps} steps was begun anew; losses are those of the last one")
    return Comparison(
        a=sides[0],
        b=sides[1],
        ratio=ratio,
        confidence=confidence,
        verdict=verdict(ratio, ONE_PAIR),
        pairs=pairs,
        processes=1,
        window_steps=steps,
        steps=states[0].step,
        train_loss_delta=_train_loss_delta(*states),
        notes=tuple(notes),
        ratios=ratios,
        seconds=seconds,
    )


def _plan(one: float, other: float, left: float, least: int, window_seconds: float) -> tuple[int, int]:
    """Return how many steps a window has and how many pairs there are, from the seconds of a step and those left."""
    steps = max(1, math.ceil(window_seconds / min(one, other)))
    pair = one + other
    steps = max(1, min(steps, int(left / (pair * least))))
    pairs = int(left / (pair * steps))
    if pairs < least:
        raise SettingError(
            f"the budget is too small to prove anything: after the warm-up {max(0.0, left):.1f} s are left, and "
            f"{least} pairs of steps take {least * pair:.1f} s; give more, such as --budget "
            f"{math.ceil(2 * least * pair + max(0.0, -left))}s"
        )
    return steps, pairs


Late = tuple[float | None, int]


def _at_equal_time(
    arms: tuple[_Timed, _Timed], states: tuple[ArmState, ArmState], losses: Sequence[float | None]
) -> tuple[tuple[Late | None, Late | None], str | None]:
    """Let the arm that has trained for less time go on until both have trained for equally long, and validate it."""
    behind = 0 if arms[0].seconds <= arms[1].seconds else 1
    arm, state = arms[behind], states[behind]
    more = round((arms[1 - behind].seconds - arm.seconds) / statistics.median(arm.rates))
    if state.runs > 1 or state.step + more >= state.total_steps:
        return (None, None), "there is no loss at equal time: the recipe's run is shorter than the measurement"
    if more:
        arm.run(more)
    found: list[Late] = [(loss, state.step) for loss, state in zip(losses, states, strict=True)]
    found[behind] = (arm.arm.validate() if more else losses[behind], state.step + more)
    return (found[0], found[1]), None


def _train_loss_delta(one: ArmState, other: ArmState) -> float | None:
    """Return by which share the other's losses are higher in sum, over the later half of the steps that both recorded.

    In sum, since the mean of shares is above 0 where losses scatter, whatever they scatter around.
    """
    common = sorted(set(one.losses) & set(other.losses))
    later = common[len(common) // 2 :]
    return _share(sum(one.losses[step] for step in later), sum(other.losses[step] for step in later))


def measure(
    a: Source,
    b: Source,
    *,
    budget: float = BUDGET,
    confidence: float = CONFIDENCE,
    names: Sequence[str] = ("A", "B"),
) -> Comparison:
    """Compare two recipes, each trained in a process of its own, in about ``budget`` seconds after both have begun.

    Two processes of one recipe differ by some percent for as long as they live, and the one that was begun first is the
    slower one more often than not. So the second half of the budget, where half is enough for a pair of processes, goes
    to a pair that is begun in the other order, and the interval is that over the windows of both.
    """
    with both(a, b, names) as (one, other):
        found = compare(one, other, budget=budget, confidence=confidence, sparing=True)
    left = budget - found.seconds
    if left >= budget / 3:
        try:
            with both(b, a, names[::-1]) as (other, one):
                return pooled(found, compare(one, other, budget=left, confidence=confidence, validate=False))
        except SettingError:
            pass  # its warm-up took longer than that of the first pair, which stands by itself
    note = f"one pair of processes only, so up to {ONE_PAIR:.0%} is no evidence; a larger budget allows two"
    return dataclasses.replace(found, notes=(*found.notes, note))


def pooled(one: Comparison, other: Comparison) -> Comparison:
    """Return the first comparison with the ratios of another pair of arms beside its own, begun in the other order."""
    ratios = one.ratios + other.ratios
    ratio = median_interval(ratios, one.confidence)
    return dataclasses.replace(
        one,
        ratio=ratio,
        ratios=ratios,
        verdict=verdict(ratio),
        pairs=len(ratios),
        processes=one.processes + other.processes,
        seconds=one.seconds + other.seconds,
    )
