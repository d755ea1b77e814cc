"""What a schedule is, the settings that become one, and the linear warm-up that several begin with."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from lehr.base.durations import Duration, DurationSetting, RunLength
from lehr.base.errors import SettingError
from lehr.base.protocols import Observer, Place
from lehr.base.settings import Settings

if TYPE_CHECKING:
    from lehr.schedules.combine import Then

__all__ = [
    "Held",
    "Schedule",
    "ScheduleSettings",
    "Shifted",
    "count",
    "nearest",
    "observers",
    "too_long",
    "warmup_factor",
    "warmup_steps",
]

Schedule: TypeAlias = Callable[[int], float]
"""step (0 for the first update) -> factor on the base rate. Pure: its checkpoint is the integer step."""


class ScheduleSettings(Settings):
    """Settings that become a schedule once the length of the run is known.

    Durations among the fields are of the whole run, also where the schedule is only a part of it.
    """

    skippable: ClassVar[bool] = False
    """Whether a length of 0 steps makes sense."""

    length: DurationSetting | None = None
    """How long it lasts, after which it keeps its last value; the rest of the run if not given."""

    def resolve(self, run: RunLength) -> Schedule:
        """Return the schedule for this run."""
        return self.over(self.span(run.steps, run), run)

    def momentum(self, run: RunLength) -> Schedule | None:
        """Return step -> momentum, where the schedule cycles it; None leaves the optimizer's own."""
        return self.momentum_over(self.span(run.steps, run), run)

    def exact(self, run: RunLength) -> Fraction | None:
        """Return its length in steps, with the fraction; None means that it takes what is left."""
        if self.length is None:
            return None
        if self.length.steps(run) == 0 and not self.skippable:
            raise SettingError(f"{self.name}: length={self.length} is 0 steps of a run of {run.steps}; give 1 or more")
        return Fraction(self.length.exact_steps(run))

    def lasts(self, run: RunLength) -> int | None:
        """Return its length in whole steps; None means that it takes what is left."""
        exact = self.exact(run)
        return None if exact is None else nearest(exact)

    def span(self, available: int, run: RunLength) -> int:
        """Return its length in steps where ``available`` of them are left; one that is a step too long is refused."""
        exact = self.exact(run)
        if exact is None:
            return available
        if too_long(exact, available):
            raise SettingError(
                f"{self.name} lasts {nearest(exact)} steps, but {_there(available, run)} {available}; use at most "
                f"{available} steps, or leave its length out to take what is there"
            )
        return min(nearest(exact), available)

    @abstractmethod
    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the schedule over ``steps`` updates of this run; beyond them it keeps its last value."""

    def momentum_over(self, steps: int, run: RunLength) -> Schedule | None:
        """Return step -> momentum over ``steps`` updates, or None."""
        return None

    def then(self, following: ScheduleSettings) -> Then:
        """Return this schedule, followed by another one.

        >>> from lehr.schedules import Cosine, Warmup
        >>> schedule = Warmup(length=2).then(Cosine()).resolve(RunLength(6))
        >>> [round(schedule(step), 3) for step in range(7)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
        """
        from lehr.schedules.combine import Then  # it is made of these settings itself

        return Then(parts=(self, following))

    @property
    def absolute(self) -> bool:
        """Whether its values are rates themselves, which needs base rates of 1."""
        return False

    @property
    def moves_momentum(self) -> bool:
        """Whether it cycles the momentum too."""
        return False

    @property
    def name(self) -> str:
        """The name of its kind, for messages."""
        return type(self).__name__


class Held:
    """A schedule that keeps the value of its last update from there on.

    >>> schedule = Held(lambda step: 0.5**step, steps=3)
    >>> [schedule(step) for step in range(5)]
    [1.0, 0.5, 0.25, 0.25, 0.25]
    """

    def __init__(self, schedule: Schedule, steps: int) -> None:
        self.schedule, self.last = schedule, max(0, steps - 1)

    def __call__(self, step: int) -> float:
        """Return the factor at ``step``."""
        return self.schedule(min(step, self.last))


def observers(schedule: Any) -> list[Observer]:
    """Return the parts of a resolved schedule that go by evaluations, such as a plateau: the run has to call them.

    >>> observers(lambda step: 1.0)
    []
    """
    if isinstance(schedule, Observer):
        return [schedule]
    parts = getattr(schedule, "parts", ())
    starts = getattr(schedule, "starts", (0,) * len(parts))
    found = [(start, listener) for start, part in zip(starts, parts, strict=True) for listener in observers(part)]
    return [Shifted(listener, start) if start else listener for start, listener in found]


class Shifted(Observer):
    """An observer inside a schedule that begins at step ``start``: before that it is told nothing."""

    def __init__(self, listener: Any, start: int) -> None:
        self.listener, self.start = listener, start

    @property
    def monitor(self) -> str:
        """The measured value that the observer goes by."""
        return str(self.listener.monitor)

    def eval_end(self, place: Place, values: Mapping[str, float]) -> None:
        """Pass an evaluation on, with the step counted from the part's first."""
        if place.step > self.start:
            self.listener.eval_end(dataclasses.replace(place, step=place.step - self.start), values)

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state of the observer inside."""
        state: Mapping[str, Any] = self.listener.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Give it back."""
        self.listener.load_state_dict(state)


def warmup_factor(step: int, warmup: int) -> float:
    """Return ``(step + 1) / warmup``, at most 1: the first update has a small rate, never a rate of 0.

    The guide gives three conventions; two of them start at 0 and waste the first update.

    >>> [warmup_factor(step, 4) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def warmup_steps(warmup: Duration, *, steps: int, run: RunLength) -> int:
    """Return the warm-up in steps; one that is a step longer than the ``steps`` there are is refused, never cut."""
    exact = warmup.exact_steps(run)
    if too_long(exact, steps):
        raise SettingError(
            f"warmup={warmup} is {nearest(exact)} steps, but {_there(steps, run)} {steps}; use at most {steps} steps, "
            "or '5%'"
        )
    return min(nearest(exact), steps)


def nearest(exact: float | Fraction) -> int:
    """Return the whole number of steps nearest to ``exact``; a half rounds up.

    >>> nearest(2.5), nearest(Fraction(7, 3))
    (3, 2)
    """
    return math.floor(exact + Fraction(1, 2))


def too_long(exact: float | Fraction, available: int) -> bool:
    """Whether a length goes beyond the steps that there are by more than rounding: by a whole step.

    Half of 11 steps is 5.5. Where two halves follow one another, one has 6 and the other 5.

    >>> too_long(5.5, 5), too_long(6, 5)
    (False, True)
    """
    return exact - available >= 1


def _there(steps: int, run: RunLength) -> str:
    return "the run has" if steps == run.steps else "this part of the run has"


def count(name: str, duration: Duration, run: RunLength) -> int:
    """Return a duration that something is repeated after, in steps; one of 0 steps is refused."""
    steps = duration.steps(run)
    if steps == 0:
        raise SettingError(f"{name}={duration} is 0 steps of a run of {run.steps}; give 1 step or more")
    return steps
