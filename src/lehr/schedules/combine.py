"""Schedules made of schedules: one after another, multiplied, scaled, repeated, clipped."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from lehr.base.durations import RunLength
from lehr.base.errors import SettingError
from lehr.base.tables import Row, Table
from lehr.schedules.function import as_settings
from lehr.schedules.schedule import Schedule, ScheduleSettings, nearest, observers, too_long

__all__ = ["COMBINATORS", "Clipped", "Repeated", "Scaled", "Then", "Times"]

Part = Annotated[ScheduleSettings, BeforeValidator(as_settings)]


class Then(ScheduleSettings):
    """One schedule after another; each but the last needs a length, and counts its steps from its own first.

    >>> from lehr.schedules import Constant, Linear
    >>> schedule = Then(parts=(Linear(start=0.5, end=1, length=2), Constant())).resolve(RunLength(4))
    >>> [schedule(step) for step in range(4)]
    [0.5, 0.75, 1.0, 1.0]
    """

    parts: tuple[Part, ...] = Field(min_length=1)
    """The schedules, in order."""

    @model_validator(mode="after")
    def _check(self) -> Then:
        _all_or_none(self.parts, "absolute", "gives rates themselves", "use inverse_sqrt, which gives factors")
        _all_or_none(self.parts, "moves_momentum", "cycles the momentum", "use cycle_momentum=none")
        return self

    def exact(self, run: RunLength) -> Fraction | None:
        """Return its length: its own, or that of all parts together if each has one."""
        return super().exact(run) if self.length is not None else _together(self.parts, run, sum)

    def span(self, available: int, run: RunLength) -> int:
        """Return its length in steps; parts that need more than ``available`` are refused."""
        if self.length is None:
            self._spans(available, run)
        return super().span(available, run)

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the parts one after another over ``steps`` updates; those of 0 steps are left out."""
        spans = self._spans(steps, run)
        return _Sequence([part.over(span, run) for part, span in spans], [span for _, span in spans])

    def momentum_over(self, steps: int, run: RunLength) -> Schedule | None:
        """Return the momentum of the parts one after another, if all of them cycle it."""
        spans = self._spans(steps, run)
        momenta = [part.momentum_over(span, run) for part, span in spans]
        known = [momentum for momentum in momenta if momentum is not None]
        return _Sequence(known, [span for _, span in spans]) if known else None

    @property
    def absolute(self) -> bool:
        """Whether its parts give rates themselves."""
        return self.parts[0].absolute

    @property
    def moves_momentum(self) -> bool:
        """Whether its parts cycle the momentum too."""
        return self.parts[0].moves_momentum

    def _spans(self, steps: int, run: RunLength) -> list[tuple[ScheduleSettings, int]]:
        """Return the parts that have steps, and how many. Each ends at the step nearest to its exact end."""
        lengths = [part.exact(run) for part in self.parts]
        for part, length in zip(self.parts[:-1], lengths[:-1], strict=True):
            if length is None:
                raise SettingError(
                    f"{part.name} is followed by another schedule, so it needs a length, such as length='10%'"
                )
        known = [length for length in lengths if length is not None]
        shown = " + ".join(str(nearest(length)) for length in known)
        if too_long(sum(known), steps):
            raise SettingError(f"the parts of a sequence last {shown} steps, but there are {steps}; make them shorter")
        ends = [min(nearest(end), steps) for end in accumulate(known)]
        if len(known) < len(lengths):
            if ends and ends[-1] == steps:
                raise SettingError(
                    f"the parts of a sequence last {shown} steps, which leaves none of {steps} for "
                    f"{self.parts[-1].name}"
                )
            ends.append(steps)
        spans = [end - start for start, end in pairwise([0, *ends])]
        for part, length, span in zip(self.parts, lengths, spans, strict=True):
            if span == 0 and length is not None and nearest(length) and not part.skippable:
                raise SettingError(
                    f"{part.name} is left 0 steps of a run of {run.steps}, as the parts of a sequence end at whole "
                    "steps; make the run longer, or leave the part out"
                )
        used = [(part, span) for part, span in zip(self.parts, spans, strict=True) if span]
        return used or [(self.parts[-1], 0)]


class Times(ScheduleSettings):
    """The product of schedules that run at the same time.

    Torch's ``ChainedScheduler`` is no product where a scheduler computes its rate without looking at the present one.

    >>> from lehr.schedules import Exponential, Linear
    >>> schedule = Times(parts=(Exponential(gamma=0.5, every=1), Linear())).resolve(RunLength(4))
    >>> [schedule(step) for step in range(4)]
    [1.0, 0.375, 0.125, 0.03125]
    """

    parts: tuple[Part, ...] = Field(min_length=1)
    """The schedules."""

    @model_validator(mode="after")
    def _check(self) -> Times:
        for what, words in {"absolute": "give rates themselves", "moves_momentum": "cycle the momentum"}.items():
            those = [part.name for part in self.parts if getattr(part, what)]
            if len(those) > 1:
                raise SettingError(f"{' and '.join(those)} both {words}, which cannot be multiplied; keep one of them")
        return self

    def exact(self, run: RunLength) -> Fraction | None:
        """Return its length: its own, or that of the longest part if each has one."""
        return super().exact(run) if self.length is not None else _together(self.parts, run, max)

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the product over ``steps`` updates."""
        return _Combined([part.over(part.span(steps, run), run) for part in self.parts], math.prod)

    def momentum_over(self, steps: int, run: RunLength) -> Schedule | None:
        """Return the momentum of the part that cycles it."""
        return next((p.momentum_over(p.span(steps, run), run) for p in self.parts if p.moves_momentum), None)

    @property
    def absolute(self) -> bool:
        """Whether a part gives rates themselves."""
        return any(part.absolute for part in self.parts)

    @property
    def moves_momentum(self) -> bool:
        """Whether a part cycles the momentum too."""
        return any(part.moves_momentum for part in self.parts)


class Around(ScheduleSettings):
    """Base of what changes one schedule: it lasts as long, and cycles the same momentum."""

    schedule: Part
    """The schedule."""

    def changed(self, factor: float) -> float:
        """Return what takes the place of a factor of the schedule."""
        return factor

    def exact(self, run: RunLength) -> Fraction | None:
        """Return its own length, or that of the schedule."""
        return self.schedule.exact(run) if self.length is None else super().exact(run)

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        inner = self.schedule.over(self.schedule.span(steps, run), run)
        return _Combined([inner], lambda values: self.changed(values[0]))

    def momentum_over(self, steps: int, run: RunLength) -> Schedule | None:
        """Return the momentum of the schedule, which is not changed."""
        return self.schedule.momentum_over(self.schedule.span(steps, run), run)

    @property
    def absolute(self) -> bool:
        """Whether it gives rates themselves."""
        return self.schedule.absolute

    @property
    def moves_momentum(self) -> bool:
        """Whether it cycles the momentum too."""
        return self.schedule.moves_momentum


class Scaled(Around):
    """A schedule times a number.

    >>> from lehr.schedules import Linear
    >>> Scaled(schedule=Linear(), factor=0.5).resolve(RunLength(4))(1)
    0.375
    """

    factor: float = Field(gt=0)
    """What it is multiplied by."""

    def changed(self, factor: float) -> float:
        """Return the product."""
        return factor * self.factor


class Clipped(Around):
    """A schedule that is kept between two factors.

    >>> from lehr.schedules import Linear
    >>> schedule = Clipped(schedule=Linear(), low=0.3, high=0.8).resolve(RunLength(4))
    >>> [schedule(step) for step in range(5)]
    [0.8, 0.75, 0.5, 0.3, 0.3]
    """

    low: float = Field(default=0.0, ge=0)
    """The lowest factor."""
    high: float = Field(default=1.0, gt=0)
    """The highest factor."""

    @model_validator(mode="after")
    def _check(self) -> Clipped:
        if self.low > self.high:
            raise SettingError(f"low={self.low:g} is above high={self.high:g}; give them the other way round")
        return self

    def changed(self, factor: float) -> float:
        """Return the nearest factor between the two."""
        return min(self.high, max(self.low, factor))


class Repeated(Around):
    """A schedule again and again: each time for its own length, or for an equal share of what is there.

    Each time ends at the step nearest to its exact end, so two of them differ by one step at most.

    >>> from lehr.schedules import Linear
    >>> schedule = Repeated(schedule=Linear(), times=2).resolve(RunLength(6))
    >>> [round(schedule(step), 2) for step in range(7)]
    [1.0, 0.67, 0.33, 1.0, 0.67, 0.33, 0.0]
    """

    times: int = Field(ge=1)
    """How often."""

    def exact(self, run: RunLength) -> Fraction | None:
        """Return its own length, or that of all repetitions."""
        exact = super().exact(run)
        return exact * self.times if exact is not None and self.length is None else exact

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the repetitions over ``steps`` updates."""
        each = self._each(steps, run)
        schedules = {span: self.schedule.over(span, run) for span in _whole(each)}
        if any(observers(schedule) for schedule in schedules.values()):
            raise SettingError(f"{self.schedule.name} goes by evaluations and has a memory; it cannot be repeated")
        return _Cycled(schedules, each, self.times)

    def momentum_over(self, steps: int, run: RunLength) -> Schedule | None:
        """Return the momentum, again and again, if it is cycled."""
        each = self._each(steps, run)
        momenta = {span: self.schedule.momentum_over(span, run) for span in _whole(each)}
        known = {span: momentum for span, momentum in momenta.items() if momentum is not None}
        return _Cycled(known, each, self.times) if known else None

    def _each(self, steps: int, run: RunLength) -> Fraction:
        """Return the steps of one repetition, with the fraction."""
        own = self.schedule.exact(run)
        each = Fraction(steps, self.times) if own is None else own
        if each < 1 or too_long(each * self.times, steps):
            raise SettingError(
                f"{self.schedule.name} cannot be repeated {self.times} times in {steps} steps"
                + (f" when it lasts {float(each):g}" if own is not None else "")
            )
        return each


class _Sequence:
    """Resolved schedules one after another."""

    def __init__(self, parts: Sequence[Schedule], spans: Sequence[int]) -> None:
        self.parts = tuple(parts)
        self.starts = tuple(sum(spans[:i]) for i in range(len(spans)))

    def __call__(self, step: int) -> float:
        """Return the factor of the last part that has begun; one of 0 steps never does."""
        now = bisect_right(self.starts, step) - 1
        return self.parts[now](step - self.starts[now])


class _Combined:
    """Resolved schedules at the same time, and what makes one value of theirs."""

    def __init__(self, parts: Sequence[Schedule], combine: Callable[[list[float]], float]) -> None:
        self.parts, self.combine = tuple(parts), combine

    def __call__(self, step: int) -> float:
        """Return the combined factor."""
        return self.combine([part(step) for part in self.parts])


class _Cycled:
    """A schedule again and again, resolved for each length that occurs; after the last time it keeps its last value."""

    def __init__(self, schedules: Mapping[int, Schedule], each: Fraction, times: int) -> None:
        self.schedules, self.times = schedules, times
        self.above, self.below = each.as_integer_ratio()

    def __call__(self, step: int) -> float:
        """Return the factor of the present repetition: the last whose start is at or before the step."""
        begun = ((2 * step + 1) * self.below - 1) // (2 * self.above)
        now = min(begun, self.times - 1)
        start, end = self._start(now), self._start(now + 1)
        return self.schedules[end - start](step - start)

    def _start(self, number: int) -> int:
        """Return the step nearest to ``number`` lengths, in whole numbers as it is asked for at each step."""
        return (2 * number * self.above + self.below) // (2 * self.below)


def _whole(each: Fraction) -> set[int]:
    """Return the whole lengths that repetitions of a length have."""
    return {math.floor(each), math.ceil(each)}


def _together(
    parts: Sequence[ScheduleSettings], run: RunLength, total: Callable[[list[Fraction]], Fraction | int]
) -> Fraction | None:
    """Return the length of all parts together, if each has one."""
    lengths = [part.exact(run) for part in parts]
    known = [length for length in lengths if length is not None]
    return Fraction(total(known)) if len(known) == len(lengths) else None


def _all_or_none(parts: Sequence[ScheduleSettings], what: str, does: str, instead: str) -> None:
    those = [part.name for part in parts if getattr(part, what)]
    others = [part.name for part in parts if not getattr(part, what)]
    if those and others:
        raise SettingError(f"{those[0]} {does} and {others[0]} does not, so they cannot follow one another; {instead}")


COMBINATORS = Table(
    "combination of schedules",
    [
        Row(name="then", make=Then, summary="one schedule after another: warmup(200) then cosine"),
        Row(name="times", make=Times, summary="the product of schedules: cosine times cyclic"),
        Row(name="scaled", make=Scaled, summary="a schedule times a number: scaled(cosine, 0.5)"),
        Row(name="repeated", make=Repeated, summary="a schedule again and again: repeated(cosine, 3)"),
        Row(name="clipped", make=Clipped, summary="a schedule between two factors: clipped(cosine, 0.1, 0.9)"),
    ],
)
