"""Lengths of training with their unit: ``2000`` or ``"2000 steps"``, ``"3 epochs"``, ``"1B tokens"``, ``"5%"``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer

from lehr.base.errors import SettingError

__all__ = ["Duration", "DurationSetting", "RunLength", "wall_seconds"]

Unit = Literal["steps", "epochs", "tokens", "%"]
_PATTERN = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(?:(steps?|epochs?|%)|([kMB]?)\s*(tokens?))?\s*")
_UNITS: dict[str, Unit] = {"s": "steps", "e": "epochs", "t": "tokens", "%": "%"}
_MULTIPLES = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9}


@dataclass(frozen=True)
class RunLength:
    """How long a run is, and what turns other units into updates; None where the data does not tell."""

    steps: int
    steps_per_epoch: int | None = None
    tokens_per_step: int | None = None


@dataclass(frozen=True)
class Duration:
    """A length and its unit; it is turned into steps once, when the length of the run is known.

    >>> Duration(-5)
    Traceback (most recent call last):
    ...
    lehr.base.errors.SettingError: -5 steps is no duration; its number is finite and 0 or more
    """

    value: float
    unit: Unit = "steps"

    def __post_init__(self) -> None:
        if self.unit not in _UNITS.values():
            raise SettingError(f"{self.unit!r} is no unit of a duration; use steps, epochs, tokens or %")
        if not isinstance(self.value, int | float):
            raise SettingError(f"{self.value!r} is no number; a text is read by Duration.parse")
        if not 0 <= self.value < math.inf:
            raise SettingError(f"{self} is no duration; its number is finite and 0 or more")
        if self.unit in ("steps", "tokens") and self.value != int(self.value):
            raise SettingError(f"{self} is not a whole number of {self.unit}")
        if self.unit == "%" and self.value > 100:
            raise SettingError(f"{self} is more than the whole run; use at most 100%")

    @classmethod
    def parse(cls, given: Any) -> Duration:
        """Read a duration from an int or a text; k, M and B before "tokens" are thousands, millions and billions.

        >>> Duration.parse("10 epochs"), Duration.parse(200), Duration.parse("5%")
        (Duration(value=10.0, unit='epochs'), Duration(value=200.0, unit='steps'), Duration(value=5.0, unit='%'))
        >>> Duration.parse("20k tokens")
        Duration(value=20000.0, unit='tokens')
        """
        if isinstance(given, Duration):
            return given
        match = _PATTERN.fullmatch(str(given)) if isinstance(given, int | str) and given is not True else None
        if match is None:
            raise SettingError(
                f"{given!r} is not a duration; write a number of steps, or a text such as "
                "'2000 steps', '3 epochs', '1B tokens' or '5%'"
            )
        unit = _UNITS[(match[2] or match[4] or "steps")[0]]
        return cls(float(match[1]) * _MULTIPLES[match[3] or ""], unit)

    def steps(self, run: RunLength) -> int:
        """Return the whole number of steps nearest to this duration (a half rounds up).

        >>> Duration.parse("5%").steps(RunLength(500))
        25
        """
        return math.floor(self.exact_steps(run) + 0.5)

    def exact_steps(self, run: RunLength) -> float:
        """Return this duration in steps, with the fraction.

        >>> Duration.parse("1000 tokens").exact_steps(RunLength(500, tokens_per_step=400))
        2.5
        """
        if self.unit == "steps":
            return self.value
        if self.unit == "%":
            return self.value / 100 * run.steps
        if self.unit == "epochs":
            if run.steps_per_epoch is None:
                raise SettingError(
                    f"'{self}' cannot be turned into steps: the training data has no known length; give steps"
                )
            return self.value * run.steps_per_epoch
        if run.tokens_per_step is None:
            raise SettingError(
                f"'{self}' cannot be turned into steps: the data does not tell how many tokens a sample has; give steps"
            )
        return self.value / run.tokens_per_step

    def __str__(self) -> str:
        """Write it as `parse` reads it.

        >>> str(Duration.parse("5%")), str(Duration.parse("1.5 epochs")), str(Duration.parse(20))
        ('5%', '1.5 epochs', '20 steps')
        """
        space = "" if self.unit == "%" else " "
        return f"{repr(self.value).removesuffix('.0')}{space}{self.unit}"


DurationSetting = Annotated[Duration, BeforeValidator(Duration.parse), PlainSerializer(str)]
"""The type of a settings field that takes a duration."""


_CLOCK = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}


def wall_seconds(given: str) -> float:
    """Return the seconds of a text such as ``90``, ``90s``, ``5min`` or ``1.5h``: time by the clock, for budgets.

    >>> wall_seconds("5min"), wall_seconds("90")
    (300.0, 90.0)
    """
    match = re.fullmatch(r"\s*(\d*\.?\d+)\s*(s|min|h|)\s*", given)
    if match is None or not float(match[1]) > 0:
        raise SettingError(f"{given!r} is no length of time above 0; write 90s, 5min or 1h")
    return float(match[1]) * _CLOCK[match[2]]
