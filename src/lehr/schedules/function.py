"""A function of one's own as settings, so that it can have a length and be combined."""

from __future__ import annotations

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
        return Held(self.call, steps)


def as_settings(given: Any) -> ScheduleSettings:
    """Return what combines with other schedules: settings as they are, a function as a `Function`."""
    if isinstance(given, ScheduleSettings):
        return given
    if callable(given) and not isinstance(given, type):
        return Function(call=given)
    raise SettingError(f"{given!r} is no schedule; give settings such as Cosine(), or a function of the step")
