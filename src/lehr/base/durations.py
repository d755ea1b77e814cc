"""Lengths of training with their unit: ``2000`` or ``"2000 steps"``, ``"3 epochs"``, ``"5%"`` of the run."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer

from lehr.base.errors import SettingError

__all__ = ["Duration", "DurationSetting"]

Unit = Literal["steps", "epochs", "%"]
_PATTERN = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(steps?|epochs?|%)?\s*")


@dataclass(frozen=True)
class Duration:
    """A length and its unit; it is turned into steps once, when the length of the run is known."""

    value: float
    unit: Unit = "steps"

    @classmethod
    def parse(cls, given: Any) -> Duration:
        """Read a duration from an int or a text.

        >>> Duration.parse("10 epochs"), Duration.parse(200), Duration.parse("5%")
        (Duration(value=10.0, unit='epochs'), Duration(value=200.0, unit='steps'), Duration(value=5.0, unit='%'))
        """
        if isinstance(given, Duration):
            return given
        match = _PATTERN.fullmatch(str(given)) if isinstance(given, int | str) and given is not True else None
        if match is None:
            raise SettingError(
                f"{given!r} is not a duration; write a number of steps, or a text such as "
                "'2000 steps', '3 epochs' or '5%'"
            )
        unit: Unit = {"s": "steps", "e": "epochs", "%": "%"}[(match[2] or "steps")[0]]  # type: ignore[assignment]
        value = float(match[1])
        if unit == "steps" and value != int(value):
            raise SettingError(f"{given!r} is not a whole number of steps")
        if unit == "%" and value > 100:
            raise SettingError(f"{given!r} is more than the whole run; use at most '100%'")
        return cls(value, unit)

    def steps(self, *, total_steps: int | None, steps_per_epoch: int | None) -> int:
        """Return the whole number of steps nearest to this duration (a half rounds up).

        >>> Duration.parse("5%").steps(total_steps=500, steps_per_epoch=None)
        25
        """
        if self.unit == "steps":
            return int(self.value)
        if self.unit == "epochs":
            if steps_per_epoch is None:
                raise SettingError(
                    f"'{self}' cannot be turned into steps: the training data has no known length; give steps"
                )
            return math.floor(self.value * steps_per_epoch + 0.5)
        if total_steps is None:
            raise SettingError(f"'{self}' cannot be turned into steps: the run has no known length; give steps")
        return math.floor(self.value / 100 * total_steps + 0.5)

    def __str__(self) -> str:
        """Write it as `parse` reads it.

        >>> str(Duration.parse("5%")), str(Duration.parse("1.5 epochs")), str(Duration.parse(20))
        ('5%', '1.5 epochs', '20 steps')
        """
        space = "" if self.unit == "%" else " "
        return f"{self.value:g}{space}{self.unit}" if self.value < 1e6 else f"{int(self.value)}{space}{self.unit}"


DurationSetting = Annotated[Duration, BeforeValidator(Duration.parse), PlainSerializer(str)]
"""The type of a settings field that takes a duration."""
