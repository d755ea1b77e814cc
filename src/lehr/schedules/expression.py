"""Schedules as a text: ``warmup(200) then cosine(1800)``, ``cosine times cyclic(up=100)``, ``repeated(cosine, 3)``."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from lehr.base.errors import SettingError
from lehr.base.tables import did_you_mean
from lehr.schedules.combine import COMBINATORS
from lehr.schedules.schedule import ScheduleSettings
from lehr.schedules.table import SCHEDULES

__all__ = ["OWN_TIME", "parse"]

_CALLS = {"scaled": ("schedule", "factor"), "repeated": ("schedule", "times"), "clipped": ("schedule", "low", "high")}
"""Combinations that are written as calls, with what is given without a name."""
OWN_TIME = {
    "step": "every",
    "multi_step": "milestones",
    "exponential": "every",
    "annealing": "every",
    "cyclic": "up",
    "cosine_restarts": "period",
    "inverse_sqrt": "warmup",
    "noam": "warmup",
    "plateau": "patience",
}
"""Schedules that go by a time of their own and not by their length: a number without a name could be either."""
_NAME = re.compile(r"[A-Za-z_]\w*")
_VALUE = re.compile(r"""\[[^\]]*\]|"[^"]*"|'[^']*'|[^,()\[\]="']+""")


def parse(text: str) -> ScheduleSettings:
    """Read a schedule from a text.

    A name of the table, with settings in parentheses where others than the defaults are wanted. Where a schedule is
    stretched over its length, as ``warmup(200)`` or ``cosine(1800)``, the length may be given without its name; where
    it goes by a time of its own (`OWN_TIME`), as ``step(every=30)``, nothing may. Values are written as after
    ``--set``: numbers, words, durations such as ``5%`` or ``10 epochs``, lists ``[30, 60]``; quotation marks are
    optional. ``times`` binds closer than ``then``; parentheses group; ``scaled(schedule, factor)``,
    ``repeated(schedule, times)`` and ``clipped(schedule, low, high)`` are calls.

    >>> parse("warmup(200) then cosine(floor=0.1)").parts[1].floor
    0.1
    >>> parse("warmup(200) then cosin")
    Traceback (most recent call last):
    ...
    lehr.base.errors.SettingError: unknown schedule 'cosin' (did you mean 'cosine'?), in column 18
      warmup(200) then cosin
                       ^
    """
    return _Parser(text).whole()


class _Parser:
    """One reading of a text, from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def whole(self) -> ScheduleSettings:
        if re.fullmatch(r"\s*[A-Za-z_]\w*\s*", self.text) and self.text.strip() not in COMBINATORS:
            made: ScheduleSettings = SCHEDULES[self.text.strip()].make()
            return made
        schedule = self.sequence()
        if self.at < len(self.text):
            found = self.text[self.at :].split()[0]
            self.fail(f"{found!r} is not expected here{did_you_mean(found, ('then', 'times'))}; use 'then' or 'times'")
        return schedule

    def sequence(self) -> ScheduleSettings:
        start, parts = self.at, [self.product()]
        while self.word("then"):
            parts.append(self.product())
        return parts[0] if len(parts) == 1 else self.made("then", {"parts": tuple(parts)}, start)

    def product(self) -> ScheduleSettings:
        start, parts = self.at, [self.single()]
        while self.word("times"):
            parts.append(self.single())
        return parts[0] if len(parts) == 1 else self.made("times", {"parts": tuple(parts)}, start)

    def single(self) -> ScheduleSettings:
        if self.sign("("):
            inner = self.sequence()
            self._need(")")
            return inner
        start, name = self.at, self.name()
        if name in ("then", "times"):
            self.fail(f"{name!r} stands between two schedules, such as 'warmup {name} cosine'", start)
        if name not in SCHEDULES and name not in _CALLS:
            self.fail(f"unknown schedule {name!r}{did_you_mean(name, (*SCHEDULES, *_CALLS))}", start)
        given = self.arguments(name) if self.sign("(") else {}
        return self.made(name, given, start)

    def made(self, name: str, given: dict[str, Any], start: int) -> ScheduleSettings:
        """Return the settings of a name; what they refuse is told with its place."""
        make = (COMBINATORS if name in COMBINATORS else SCHEDULES)[name].make
        try:
            made: ScheduleSettings = make(**given)
        except SettingError as error:
            self.fail(str(error), start)
        return made

    def arguments(self, name: str) -> dict[str, Any]:
        """Read what is between the parentheses of a call."""
        positional, place = () if name in OWN_TIME else _CALLS.get(name, ("length",)), 0
        given: dict[str, Any] = {}
        while not self.sign(")"):
            if given:
                self._need(",")
            start = self.at
            named = re.compile(r"\s*([A-Za-z_]\w*)\s*=").match(self.text, self.at)
            if named:
                field, self.at = named[1], named.end()
            elif place < len(positional):
                field, place = positional[place], place + 1
            elif name in OWN_TIME:
                self._unnamed(name)
            else:
                self.fail(f"{name} takes {len(positional)} without a name: {', '.join(positional)}; name the others")
            if field in given:
                self.fail(f"{field} is given twice", start)
            given[field] = self.sequence() if field == "schedule" else self.value()
        return given

    def _unnamed(self, name: str) -> NoReturn:
        """Refuse a value without a name, and say what it may have been meant as."""
        start, own = self.at, OWN_TIME[name]
        value = self.value()
        shown = f"[{', '.join(value)}]" if isinstance(value, list) else str(value)
        listed = f"[{shown}]" if own == "milestones" and not isinstance(value, list) else shown
        ways = [f"{name}({own}={listed})"] + [f"{name}(length={shown})"] * (not isinstance(value, list))
        meant = "" if isinstance(value, list) else f" {shown} may be meant as {own} or as length;"
        self.fail(f"{name} takes nothing without a name:{meant} write {' or '.join(ways)}", start)

    def value(self) -> Any:
        self._skip()
        match = _VALUE.match(self.text, self.at)
        if match is None or not match[0].strip():
            self.fail("a value is missing")
        self.at = match.end()
        text = match[0].strip()
        if text[0] == "[":
            items = [item.strip().strip("\"'") for item in text[1:-1].split(",")]
            return [item for item in items if item]
        if text[0] in "\"'":
            return text[1:-1]
        return None if text.lower() in ("none", "null") else text

    def name(self) -> str:
        self._skip()
        match = _NAME.match(self.text, self.at)
        if match is None:
            self.fail("a schedule is missing")
        self.at = match.end()
        return match[0]

    def word(self, wanted: str) -> bool:
        self._skip()
        match = _NAME.match(self.text, self.at)
        if match is None or match[0] != wanted:
            return False
        self.at = match.end()
        return True

    def sign(self, wanted: str) -> bool:
        self._skip()
        if not self.text.startswith(wanted, self.at):
            return False
        self.at += 1
        return True

    def _need(self, wanted: str) -> None:
        if not self.sign(wanted):
            self.fail(f"{wanted!r} is missing")

    def _skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def fail(self, why: str, at: int | None = None) -> NoReturn:
        at = self.at if at is None else at
        at += len(self.text[at:]) - len(self.text[at:].lstrip())
        raise SettingError(f"{why}, in column {at + 1}\n  {self.text}\n  {' ' * at}^") from None
