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
from lehr.measurement.intervals import (
    CONFIDENCE,
    LEAST,
    LEAST_OF_ONE,
    Interval,
    Verdict,
    least_pairs,
    median_interval,
    verdict,
)
from lehr.measurement.worker import Source, both

__all__ = ["Comparison", "Side", "compare", "measure", "pooled"]

WINDOW_SECONDS = 0.1
"""Seconds behind one ratio, about: enough that small steps with a record are in each as often as they are in a run."""
TURN_SECONDS = 0.02
"""Seconds until it is the other's turn: far over the resolution of clocks, and short beside the drift of a machine."""
WARM = 5
"""Steps before anything is counted, and more where they go on becoming faster,"""
WARMEST = 100
"""up to so many."""
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


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How many times as fast B is, and at which loss."""

    a: Side
    b: Side
    ratio: Interval
    """A's seconds over B's, window by window: above 1, B is faster."""
    confidence: float
    verdict: Verdict
    arms: int
    """How many pairs of arms the pairs of windows are from: pairs of processes, mostly."""
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
    def pairs(self) -> int:
        """How many pairs of windows there were."""
        return len(self.ratios)

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
        gain = self.a.seconds_per_step * (1 - 1 / self.ratio.median)
        return max(0, math.ceil(cost / gain))

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        names = ("confidence", "verdict", "pairs", "arms", "window_steps", "steps")
        own = {name: getattr(self, name) for name in names}
        ratio = {"ratio": self.ratio.median, "low": self.ratio.low, "high": self.ratio.high}
        loss = {"loss_delta": self.loss_delta, "train_loss_delta": self.train_loss_delta}
        sides = {"a": dataclasses.asdict(self.a), "b": dataclasses.asdict(self.b)}
        return ratio | own | loss | {"repaid_after": self.repaid_after} | sides | {"notes": list(self.notes)}


def _share(one: float | None, other: float | None) -> float | None:
    return (other - one) / abs(one) if one and other is not None else None


Late = tuple[float | None, int]
"""A validation loss, and after how many steps."""


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

    def side(self, state: ArmState, loss: float | None, late: Late | None) -> Side:
        """Return what it came to."""
        return Side(
            seconds_per_step=statistics.median(self.rates),
            start_seconds=state.start_seconds,
            warm_up_seconds=self.warm_up_seconds,
            compilations=state.compilations,
            peak_bytes=state.peak_bytes,
            loss=loss,
            loss_at_equal_time=late[0] if late else None,
            steps_at_equal_time=late[1] if late else None,
        )


def compare(
    a: Arm,
    b: Arm,
    *,
    budget: float = BUDGET,
    confidence: float = CONFIDENCE,
    validate: bool = True,
    sparing: bool = False,
) -> Comparison:
    """Compare two arms in about ``budget`` seconds; half of them, if ``sparing`` and half is enough.

    Both are warmed up by equally many steps. Then come pairs of windows with the same number of steps, as many as the
    budget allows, decided beforehand. The two take turns within a pair, so that the machine drifts for both. The
    ratio's interval is that of `lehr.measurement.intervals.median_interval`, for these two arms; since processes of one
    recipe differ, a winner has to be ahead by `LEAST_OF_ONE` there. Raises SettingError where the budget allows fewer
    pairs than an interval of this confidence needs.
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
    steps, turns, pairs = _plan(one.steady, other.steady, left, least, warm)
    draw = random.Random(0)
    for _ in range(pairs):
        _window(one, other, steps, turns, draw)
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
        arm.side(state, loss, late)
        for arm, state, loss, late in zip((one, other), states, losses, at_equal_time, strict=True)
    ]
    if any(state.runs > 1 for state in states):
        notes.append(f"the run of {states[0].total_steps} steps was begun anew; losses are those of the last one")
    return Comparison(
        a=sides[0],
        b=sides[1],
        ratio=ratio,
        confidence=confidence,
        verdict=verdict(ratio, LEAST_OF_ONE),
        arms=1,
        window_steps=steps * turns,
        steps=states[0].step,
        train_loss_delta=_train_loss_delta(*states),
        notes=tuple(notes),
        ratios=ratios,
        seconds=seconds,
    )


def _plan(one: float, other: float, left: float, least: int, warm: float) -> tuple[int, int, int]:
    """Return the steps of a turn, the turns of a window and how many pairs of windows there are.

    From the seconds of a step on either side, and those that are left behind the ``warm`` ones of the warm-up.
    """
    pair = one + other
    most = int(left / (pair * least))  # steps of a window, for as many pairs as an interval needs
    steps = max(1, min(math.ceil(TURN_SECONDS / min(one, other)), most))
    turns = max(1, min(round(WINDOW_SECONDS / (steps * min(one, other))), most // steps))
    pairs = int(left / (pair * steps * turns))
    if pairs < least:
        raise SettingError(
            f"the budget is too small to prove anything: after a warm-up of {warm:.1f} s {max(0.0, left):.1f} s are "
            f"left, and {least} pairs of steps take {least * pair:.1f} s; give more, such as --budget "
            f"{math.ceil(warm + 2 * least * pair)}s"
        )
    return steps, turns, pairs


def _window(one: _Timed, other: _Timed, steps: int, turns: int, draw: random.Random) -> None:
    """Let both train a window, in turns of so many steps; who of them begins a turn is drawn."""
    rates: dict[_Timed, list[float]] = {one: [], other: []}
    for _ in range(turns):
        for arm in (one, other) if draw.random() < 0.5 else (other, one):
            rates[arm].append(arm.run(steps))
    for arm, found in rates.items():
        arm.rates.append(statistics.fmean(found))


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

    Two processes of one recipe may differ by some percent for as long as they live, the one that was begun first from
    the other. So the second half of the budget, where half is enough for a pair of processes, goes to a pair that is
    begun in the other order, and the interval is that over the windows of both.
    """
    with both(a, b, names) as (one, other):
        found = compare(one, other, budget=budget, confidence=confidence, sparing=True)
    left = budget - found.seconds
    if left >= budget / 3:  # half was enough, and is left but for what windows took beyond their plan
        try:
            with both(b, a, names[::-1]) as (other, one):
                return pooled(found, compare(one, other, budget=left, confidence=confidence, validate=False))
        except SettingError:
            pass  # its warm-up took longer than that of the first pair, which stands by itself
    note = f"one pair of processes only, so up to {LEAST_OF_ONE:.0%} is no evidence; a larger budget allows two"
    return dataclasses.replace(found, notes=(*found.notes, note))


def pooled(one: Comparison, other: Comparison) -> Comparison:
    """Return the first comparison with the ratios of another pair of arms beside its own, begun in the other order."""
    ratios = one.ratios + other.ratios
    ratio = median_interval(ratios, one.confidence)
    return dataclasses.replace(
        one,
        ratio=ratio,
        ratios=ratios,
        verdict=verdict(ratio, LEAST),
        arms=one.arms + other.arms,
        seconds=one.seconds + other.seconds,
    )
