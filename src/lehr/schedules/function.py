"""A function of one's own as settings, so that it can have a length and be combined."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any

from lehr.base.durations import RunLength
from lehr.base.errors import SettingError
from lehr.schedules.schedule import Held, Schedule, ScheduleSettings

__all__ = ["Function", "as_settings"]


class Function(ScheduleSettings):
    """A function from the step, counted from this schedule's first, to a factor: torch's ``LambdaLR``.

    >>> schedule = Function(call=lambda step: 0.5**step, length=3).resolve(RunLength(10))
    >>> [schedule(step) for step in range(5)]
    [1.0, 0.5, 0.25, 0.25, 0.25]
    """

    call: Callable[[int], float]
    """step -> factor."""

    def over(self, steps: int, run: RunLength) -> Schedule:
        """Return the function, held after ``steps`` updates."""
        return Held(functools.partial(checked, self.call), steps)


def checked(schedule: Callable[[int], Any], step: int) -> float:
    """Return ``schedule(step)``, and refuse what is no factor: a rate that is negative or no number spoils the weights.

    >>> checked(lambda step: -0.5, 3)
    Traceback (most recent call last):
    ...
    lehr.base.errors.SettingError: the schedule <lambda> gives -0.5 at step 3; a factor is a finite number, 0 or more
    """
    factor = schedule(step)
    if not isinstance(factor, numbers.Real) or not 0 <= float(factor) < math.inf:
        name = getattr(schedule, "__name__", type(schedule).__name__)
        raise SettingError(
            f"the schedule {name} gives {factor!r} at step {step}; a factor is a finite number, 0 or more"
        )
    return float(factor)


def as_settings(given: Any) -> ScheduleSettings:
    """Return what combines with other schedules: settings as they are, a function as a `Function`."""
    if isinstance(given, ScheduleSettings):
        return given
    if callable(given) and not isinstance(given, type):
        return Function(call=given)
    raise SettingError(f"{given!r} is no schedule; give settings such as Cosine(), or a function of the step")
