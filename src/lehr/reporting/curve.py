"""The rate of a run that is yet to be: sampled, cut into phases, and read as a temperature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeAlias

from lehr.base.errors import SettingError

__all__ = ["BY_EVALUATIONS", "Boundary", "Curve", "Phase", "phases", "reading", "temperature"]

EXACT = 100_000
"""A longer run is sampled at about so many steps, and looked at step by step around what was found there."""
FLAT = 1e-12
"""A change from one step to the next that is a smaller share of the value is none."""
SHARP = 8.0
"""How many times as large as its neighbours a change, or a change of slope, stands out."""
BY_EVALUATIONS = (
    "it goes by evaluations, so it has no curve ahead of time; drawn is what comes if none of them lowers the rate"
)
"""Is said of a schedule with a memory."""

Kind: TypeAlias = Literal["warm-up", "rise", "constant", "decay"]
KINDS: dict[int, Kind] = {1: "rise", 0: "constant", -1: "decay"}


def temperature(rate: float, *, batch_size: int, momentum: float = 0.0) -> float:
    """Return ``rate / (batch_size (1 - momentum))``, to which the noise of SGD is proportional.

    Times the number of training samples it is the noise scale. Sources: Mandt et al. 2017 (arXiv 1704.04289), Smith
    and Le 2018 (arXiv 1710.06451). For optimizers that divide by the gradients' size, such as Adam, a rough guide only.

    >>> temperature(0.1, batch_size=50, momentum=0.5)
    0.004
    """
    if not 0 <= momentum < 1:
        raise SettingError(f"momentum={momentum:g} has no temperature; give 0 or more and less than 1")
    if batch_size < 1:
        raise SettingError(f"batch_size={batch_size} is no number of samples; give 1 or more")
    return rate / (batch_size * (1 - momentum))


class Phase(NamedTuple):
    """A stretch in which values only rise, stay or fall; ``start`` is the place of its first value."""

    start: int
    kind: Kind


def phases(values: Sequence[float]) -> list[Phase]:
    """Cut a curve where it turns, jumps, begins or ends to be constant, or bends sharply.

    A jump belongs to what comes after it. A rise that ends in a constant stretch has the first value at the top. A rise
    at the beginning that is the only one is the warm-up.

    >>> phases([0.5, 1.0, 1.0, 1.0, 0.7, 0.4, 0.1])
    [Phase(start=0, kind='warm-up'), Phase(start=2, kind='constant'), Phase(start=3, kind='decay')]
    """
    changes = [after - before for before, after in pairwise(values)]
    signs = [_sign(before, after) for before, after in pairwise(values)]
    jumps = [_is_jump(changes, signs, i) for i in range(len(changes))]
    starts = [0, *(i for i in range(1, len(values)) if _begins(changes, signs, jumps, i))]
    ends = [*starts[1:], len(values)]
    kinds = [KINDS[_sign(values[start], values[end - 1])] for start, end in zip(starts, ends, strict=True)]
    if starts[:2] == [0, 1] and values[1] > values[0]:  # it rises in one step
        kinds[0] = "rise"
    if kinds[0] == "rise" and kinds.count("rise") == 1:
        kinds[0] = "warm-up"
    return [Phase(start, kind) for start, kind in zip(starts, kinds, strict=True)]


def _sign(before: float, after: float) -> int:
    """Return 1 for a rise, -1 for a fall, 0 where nothing changes but the last digits."""
    change = after - before
    return 0 if abs(change) <= FLAT * max(abs(before), abs(after)) else int(math.copysign(1, change))


def _is_jump(changes: Sequence[float], signs: Sequence[int], i: int) -> bool:
    """Whether the change after place ``i`` stands alone."""
    if not (i > 0 and signs[i]):
        return False
    if i == len(changes) - 1:
        return signs[i - 1] == 0
    alone = signs[i - 1] != signs[i] != signs[i + 1]
    return alone or abs(changes[i]) > SHARP * max(abs(changes[i - 1]), abs(changes[i + 1]))


def _begins(changes: Sequence[float], signs: Sequence[int], jumps: Sequence[bool], i: int) -> bool:
    """Whether a phase begins at place ``i``, which has a change before it."""
    if jumps[i - 1]:
        return True
    if i == len(changes) or jumps[i]:
        return False
    before, after = signs[i - 1], signs[i]
    if after == 0:
        if before == 0:  # one later than the end of a rise, whose last value is the top
            return i >= 2 and signs[i - 2] > 0 and not jumps[i - 2]
        return before < 0 and i + 1 < len(signs) and signs[i + 1] == 0
    return before != after or _bends(changes, i)


def _bends(changes: Sequence[float], i: int) -> bool:
    """Whether the slope changes at once at place ``i``, and not a little at each place around it."""
    if not 2 <= i < len(changes) - 1:
        return False
    before, here, after = (changes[k] - changes[k - 1] for k in (i - 1, i, i + 1))
    slope = max(abs(changes[i]), abs(changes[i - 1]))
    return abs(here) > max(SHARP * abs(before), SHARP * abs(after), 0.02 * slope)


@dataclass(frozen=True)
class Boundary:
    """What holds at the first step of a phase, or at the last step of the run."""

    step: int
    factor: float
    rate: float
    momentum: float
    temperature: float
    phase: Kind | Literal["end"]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The rate of a run over its steps, and what turns it into a temperature.

    >>> curve = Curve(name="line", schedule=lambda step: 1 - step / 4, steps=4, rate=0.2, batch_size=10)
    >>> [(b.step, round(b.rate, 3), b.phase) for b in curve.boundaries]
    [(0, 0.2, 'decay'), (3, 0.05, 'end')]
    """

    name: str
    schedule: Callable[[int], float]
    """step (0 for the first update) -> factor."""
    steps: int
    rate: float
    """The base rate."""
    batch_size: int
    momentum: float | Callable[[int], float] = 0.0
    """One for the whole run, or a function of the step."""
    other: str | None = None
    """The name of an optimizer that is not SGD, for which the temperature is a rough guide only."""
    notes: tuple[str, ...] = ()
    """What has to be said with it."""

    def factor_at(self, step: int) -> float:
        """Return the factor, which has to be a number."""
        factor = float(self.schedule(step))
        if not math.isfinite(factor):
            raise SettingError(f"{self.name} gives the factor {factor} at step {step}; it must be a finite number")
        return factor

    def rate_at(self, step: int) -> float:
        """Return the rate."""
        return self.rate * self.factor_at(step)

    def momentum_at(self, step: int) -> float:
        """Return the momentum."""
        return float(self.momentum(step)) if callable(self.momentum) else self.momentum

    def temperature_at(self, step: int) -> float:
        """Return the temperature."""
        return temperature(self.rate_at(step), batch_size=self.batch_size, momentum=self.momentum_at(step))

    def sampled(self, most: int) -> list[int]:
        """Return at most so many steps (2 or more), evenly spread, with the first and the last.

        >>> Curve(name="", schedule=lambda step: 1.0, steps=10, rate=1, batch_size=1).sampled(4)
        [0, 3, 6, 9]
        """
        if self.steps <= most:
            return list(range(self.steps))
        parts, last = most - 1, self.steps - 1
        return [(2 * i * last + parts) // (2 * parts) for i in range(most)]  # whole numbers, as floats end at 2^53

    @cached_property
    def at(self) -> list[int]:
        """The steps that the phases are found by: all of them, unless there are very many."""
        return self.sampled(EXACT)

    @cached_property
    def factors(self) -> list[float]:
        """The factors at these steps."""
        return [self.factor_at(step) for step in self.at]

    @cached_property
    def hottest(self) -> tuple[int, float]:
        """The step of the highest temperature, and that temperature."""
        step = max(self.at, key=self.temperature_at)
        return step, self.temperature_at(step)

    @cached_property
    def boundaries(self) -> list[Boundary]:
        """Where each phase begins, and the end."""
        found = [(self._exact(place), kind) for place, kind in phases(self.factors)]
        return [self._boundary(step, kind) for step, kind in found] + [self._boundary(self.steps - 1, "end")]

    def _exact(self, place: int) -> int:
        """Return the step where what was found at a place begins, by looking at each step around it."""
        if not place or len(self.at) == self.steps:
            return self.at[place]
        around = range(self.at[max(0, place - 2)], self.at[min(len(self.at) - 1, place + 1)] + 1)
        inside = phases([self.factor_at(step) for step in around])[1:]
        return around[inside[0].start] if inside else self.at[place]

    def _boundary(self, step: int, phase: Kind | Literal["end"]) -> Boundary:
        factor, momentum = self.factor_at(step), self.momentum_at(step)
        heat = temperature(self.rate * factor, batch_size=self.batch_size, momentum=momentum)
        return Boundary(step, factor, self.rate * factor, momentum, heat, phase)

    def plain(self, *, most: int = 500) -> dict[str, Any]:
        """Return the curve as plain values, at ``most`` steps."""
        at = self.sampled(most)
        return {
            "name": self.name,
            "steps": self.steps,
            "at": at,
            "rates": [self.rate_at(step) for step in at],
            "momentum": [self.momentum_at(step) for step in at],
            "temperature": [self.temperature_at(step) for step in at],
            "boundaries": [vars(boundary) for boundary in self.boundaries],
            "reading": reading(self),
            "notes": list(self.notes),
        }


def reading(curve: Curve) -> str:
    """Return what the rate does, seen as a temperature.

    >>> reading(Curve(name="", schedule=lambda step: 0.9**step, steps=50, rate=1, batch_size=1))
    'exponential cooling'
    """
    begun = curve.boundaries[:-1]
    kinds = [boundary.phase for boundary in begun]
    words = []
    if kinds[0] == "warm-up":
        words, begun, kinds = ["slow heating"], begun[1:], kinds[1:]
    if "rise" in kinds:
        words.append("a periodic drive" if kinds.count("rise") > 1 else "heating and cooling")
    elif len(kinds) > 1 and set(kinds) == {"constant"}:
        words.append("cooling and heating in steps" if _reheats(curve, begun) else "stepwise cooling")
    elif _reheats(curve, begun):
        words.append("cooling with reheating")
    else:
        seen = {"constant": "a constant temperature", "decay": _cooling(curve)}
        words += list(dict.fromkeys(seen[kind] for kind in kinds))
    return ", then ".join(words)


def _reheats(curve: Curve, begun: Sequence[Boundary]) -> bool:
    """Whether a phase other than the first begins higher than the one before it ended."""
    return any(_sign(curve.factor_at(b.step - 1), b.factor) > 0 for b in begun[1:])


def _cooling(curve: Curve) -> str:
    """Whether the only decay loses the same share at each step."""
    start = next((b.step for b in curve.boundaries if b.phase == "decay"), 0)
    end = next((b.step for b in curve.boundaries if b.step > start), curve.steps)
    middle, length = (start + end) // 2, (end - start) // 2
    first, second, third = (curve.factor_at(middle + k * length) for k in (-1, 0, 1)) if length else (1.0, 0.0, 0.0)
    even = first > 0 and second > 0 and math.isclose(second / first, third / second, rel_tol=1e-6)
    return "exponential cooling" if even else "cooling"
