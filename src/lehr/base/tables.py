"""Name tables: what can be chosen by name, as immutable data. Users extend lehr by passing the object itself."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lehr.base.errors import SettingError

__all__ = ["Row", "Table", "did_you_mean"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One choice: its name, what makes it, one line about it, when to choose it, the extra that it needs."""

    name: str
    make: Callable[..., Any]
    summary: str
    needs: str | None = None
    choose: str = ""
    """When to choose it, as it goes on after "If you ...": what `lehr list --help-me-choose` prints."""


class Table(Mapping[str, Row]):
    """An ordered, immutable mapping from a name to its row; an unknown name is answered with the nearest.

    >>> fruit = Table("fruit", [Row(name="apple", make=str, summary="red")])
    >>> fruit["appel"]
    Traceback (most recent call last):
    ...
    lehr.base.errors.SettingError: unknown fruit 'appel' (did you mean 'apple'?); known: apple
    """

    def __init__(self, kind: str, rows: Iterable[Row]) -> None:
        self.kind = kind
        self._rows = {row.name: row for row in rows}

    def __getitem__(self, name: str) -> Row:
        if name not in self._rows:
            raise SettingError(
                f"unknown {self.kind} {name!r}{did_you_mean(name, self._rows)}; known: {', '.join(self._rows)}"
            )
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __len__(self) -> int:
        return len(self._rows)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known name that is nearest to ``name``, or nothing.

    >>> did_you_mean("shedule", ["schedule", "optim"])
    " (did you mean 'schedule'?)"
    >>> did_you_mean("COSINE", ["cosine"])
    " (did you mean 'cosine'?)"
    >>> did_you_mean("zzz", ["schedule"])
    ''
    """
    written = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), written, n=1, cutoff=0.5)
    return f" (did you mean {written[near[0]]!r}?)" if near else ""
