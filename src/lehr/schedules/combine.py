"""Schedules made of schedules: one after another, multiplied, scaled, repeated, clipped."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from lehr.base.durations import RunLength
from lehr.base.errors import SettingError
from lehr.base.tables import Row, Table
from lehr.schedules.function import as_settings
from lehr.schedules.schedule import Schedule, ScheduleSettings, observers

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

    def lasts(self, run: RunLength) -> int | None:
        """Return its length: its own, or that of all parts together if each has one."""
        lengths = [part.lasts(run) for part in self.parts]
        whole = None if None in lengths else sum(length for length in lengths if length is not None)
        return whole if self.length is None else super().lasts(run)

    def span(self, available: int, run: RunLength) -> int:
        """Return its length in steps; parts that need more than ``available`` are refused."""
        if self.length is None:
            self._spans(available, run)
        return super().span(available, run)

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the parts one after another over ``steps`` updates."""
        spans = self._spans(steps, run)
        return _Sequence([part.over(span, run) for part, span in zip(self.parts, spans, strict=True)], spans)

    def momentum_over(self, steps: int, run: RunLength) -> Schedule | None:
        """Return the momentum of the parts one after another, if all of them cycle it."""
        spans = self._spans(steps, run)
        momenta = [part.momentum_over(span, run) for part, span in zip(self.parts, spans, strict=True)]
        known = [momentum for momentum in momenta if momentum is not None]
        return _Sequence(known, spans) if known else None

    @property
    def absolute(self) -> bool:
        """Whether its parts give rates themselves."""
        return self.parts[0].absolute

    @property
    def moves_momentum(self) -> bool:
        """Whether its parts cycle the momentum too."""
        return self.parts[0].moves_momentum

    def _spans(self, steps: int, run: RunLength) -> list[int]:
        lengths = [part.lasts(run) for part in self.parts]
        for part, length in zip(self.parts[:-1], lengths[:-1], strict=True):
            if length is None:
                raise SettingError(
                    f"{part.name} is followed by another schedule, so it needs a length, such as length='10%'"
                )
        known = [length for length in lengths if length is not None]
        shown = " + ".join(map(str, known))
        if sum(known) > steps:
            raise SettingError(f"the parts of a sequence last {shown} steps, but there are {steps}; make them shorter")
        if len(known) == len(lengths):
            return known
        if sum(known) == steps:
            raise SettingError(
                f"the parts of a sequence last {shown} steps, which leaves none of {steps} for {self.parts[-1].name}"
            )
        return [*known, steps - sum(known)]


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

    def lasts(self, run: RunLength) -> int | None:
        """Return its length: its own, or that of the longest part if each has one."""
        lengths = [part.lasts(run) for part in self.parts]
        whole = None if None in lengths else max(length for length in lengths if length is not None)
        return whole if self.length is None else super().lasts(run)

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


class Scaled(ScheduleSettings):
    """A schedule times a number.

    >>> from lehr.schedules import Linear
    >>> Scaled(schedule=Linear(), factor=0.5).resolve(RunLength(4))(1)
    0.375
    """

    schedule: Part
    """The schedule."""
    factor: float = Field(gt=0)
    """What it is multiplied by."""

    def lasts(self, run: RunLength) -> int | None:
        """Return its own length, or that of the schedule."""
        return self.schedule.lasts(run) if self.length is None else super().lasts(run)

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        inner = self.schedule.over(self.schedule.span(steps, run), run)
        return _Combined([inner], lambda values: values[0] * self.factor)

    def momentum_over(self, steps: int, run: RunLength) -> Schedule | None:
        """Return the momentum of the schedule, which is not scaled."""
        return self.schedule.momentum_over(self.schedule.span(steps, run), run)

    @property
    def absolute(self) -> bool:
        """Whether it gives rates themselves."""
        return self.schedule.absolute

    @property
    def moves_momentum(self) -> bool:
        """Whether it cycles the momentum too."""
        return self.schedule.moves_momentum


class Clipped(ScheduleSettings):
    """A schedule that is kept between two factors.

    >>> from lehr.schedules import Linear
    >>> schedule = Clipped(schedule=Linear(), low=0.3, high=0.8).resolve(RunLength(4))
    >>> [schedule(step) for step in range(5)]
    [0.8, 0.75, 0.5, 0.3, 0.3]
    """

    schedule: Part
    """The schedule."""
    low: float = Field(default=0.0, ge=0)
    """The lowest factor."""
    high: float = Field(default=1.0, gt=0)
    """The highest factor."""

    @model_validator(mode="after")
    def _check(self) -> Clipped:
        if self.low > self.high:
            raise SettingError(f"low={self.low:g} is above high={self.high:g}; give them the other way round")
        return self

    def lasts(self, run: RunLength) -> int | None:
        """Return its own length, or that of the schedule."""
        return self.schedule.lasts(run) if self.length is None else super().lasts(run)

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates."""
        inner = self.schedule.over(self.schedule.span(steps, run), run)
        return _Combined([inner], lambda values: min(self.high, max(self.low, values[0])))

    def momentum_over(self, steps: int, run: RunLength) -> Schedule | None:
        """Return the momentum of the schedule, which is not clipped."""
        return self.schedule.momentum_over(self.schedule.span(steps, run), run)

    @property
    def absolute(self) -> bool:
        """Whether it gives rates themselves."""
        return self.schedule.absolute

    @property
    def moves_momentum(self) -> bool:
        """Whether it cycles the momentum too."""
        return self.schedule.moves_momentum


class Repeated(ScheduleSettings):
    """A schedule again and again: each time for its own length, or for an equal share of what is there.

    Where the steps are no multiple of ``times``, the few that are left at the end keep the last value.

    >>> from lehr.schedules import Linear
    >>> schedule = Repeated(schedule=Linear(), times=2).resolve(RunLength(5))
    >>> [schedule(step) for step in range(5)]
    [1.0, 0.5, 1.0, 0.5, 0.0]
    """

    schedule: Part
    """The schedule."""
    times: int = Field(ge=1)
    """How often."""

    def lasts(self, run: RunLength) -> int | None:
        """Return its own length, or that of all repetitions."""
        each = self.schedule.lasts(run)
        whole = None if each is None else each * self.times
        return whole if self.length is None else super().lasts(run)

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the repetitions over ``steps`` updates."""
        period = self._period(steps, run)
        schedule = self.schedule.over(period, run)
        if observers(schedule):
            raise SettingError(f"{self.schedule.name} goes by evaluations and has a memory; it cannot be repeated")
        return _Cycled(schedule, period, self.times)

    def momentum_over(self, steps: int, run: RunLength) -> Schedule | None:
        """Return the momentum, again and again, if it is cycled."""
        period = self._period(steps, run)
        momentum = self.schedule.momentum_over(period, run)
        return momentum and _Cycled(momentum, period, self.times)

    @property
    def absolute(self) -> bool:
        """Whether it gives rates themselves."""
        return self.schedule.absolute

    @property
    def moves_momentum(self) -> bool:
        """Whether it cycles the momentum too."""
        return self.schedule.moves_momentum

    def _period(self, steps: int, run: RunLength) -> int:
        each = self.schedule.lasts(run)
        if each == 0 or (each or 1) * self.times > steps:
            raise SettingError(
                f"{self.schedule.name} cannot be repeated {self.times} times in {steps} steps"
                + (f" when it lasts {each}" if each is not None else "")
            )
        return steps // self.times if each is None else each


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
    """A resolved schedule again and again; after the last time it keeps its last value, as the schedule does."""

    def __init__(self, schedule: Schedule, period: int, times: int) -> None:
        self.parts, self.period, self.times = (schedule,), period, times

    def __call__(self, step: int) -> float:
        """Return the factor of the present repetition."""
        return self.parts[0](step - self.period * min(step // self.period, self.times - 1))


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
