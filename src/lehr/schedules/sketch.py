"""Schedules drawn with characters, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from lehr.base.durations import RunLength
from lehr.schedules.schedule import Schedule, ScheduleSettings

__all__ = ["sketch"]

BLOCKS = " ▁▂▃▄▅▆▇█"
"""A character by how many eighths of it are filled, from below."""


def sketch(
    schedules: Mapping[str, ScheduleSettings | Schedule], run: RunLength, *, width: int = 60, height: int = 6
) -> str:
    """Return each schedule as a small chart: the factor upwards from 0 to its highest, the run from left to right.

    >>> from lehr.schedules import Linear, StepDecay
    >>> print(sketch({"linear": Linear(), "step": StepDecay(gamma=0.5)}, RunLength(100), width=20, height=2))
    linear: up to 1, at the end 0.01
    █▇▆▅▄▄▃▂▁
    ███████████▇▆▅▄▄▃▂▁
    <BLANKLINE>
    step: up to 1, at the end 0.125
    ██████
    ████████████▄▄▄▄▄▄▂▂
    """
    return "\n\n".join(_chart(name, schedule, run, width, height) for name, schedule in schedules.items())


def _chart(name: str, given: ScheduleSettings | Schedule, run: RunLength, width: int, height: int) -> str:
    schedule = given.resolve(run) if isinstance(given, ScheduleSettings) else given
    factors = [schedule(step) for step in range(run.steps)]
    highest = max(factors) or 1.0
    # the factor in the middle of each column, in eighths of a character
    columns = [round(factors[(2 * x + 1) * run.steps // (2 * width)] / highest * height * 8) for x in range(width)]
    rows = [
        "".join(BLOCKS[min(8, max(0, eighths - 8 * row))] for eighths in columns).rstrip()
        for row in reversed(range(height))
    ]
    return "\n".join([f"{name}: up to {highest:g}, at the end {factors[-1]:.3g}", *rows])
