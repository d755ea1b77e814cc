"""Frozen settings, checked on construction, and the one way to change them: by the path of a field."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lehr.base.durations import Duration
from lehr.base.errors import SettingError
from lehr.base.tables import did_you_mean

__all__ = ["PRIVATE", "Settings", "describe_callable", "override", "plain", "strict"]

S = TypeVar("S", bound="Settings")
PRIVATE = "lehr_recipe_"
"""Begins the name under which a recipe file is loaded when another module has the file's own name."""


class Settings(BaseModel):
    """Base of every group of settings: frozen, keyword-only, no unknown fields, no silent clamping.

    >>> class Blur(Settings):
    ...     radius: int = 3
    >>> Blur(radios=4)
    Traceback (most recent call last):
    ...
    lehr.base.errors.SettingError: Blur has no field 'radios' (did you mean 'radius'?); its fields: radius
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Fields of which one is set at most; overriding one of them unsets the others."""

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise SettingError(_explain(type(self), error)) from None


def _explain(owner: type[Settings], error: ValidationError) -> str:
    """Say for each refused field what was given, what is allowed and what comes nearest."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"] if isinstance(part, str | int))
        if item["type"] == "extra_forbidden":
            lines.append(_unknown_field(owner, where))
        elif item["type"] == "missing":
            lines.append(f"{owner.__name__} needs {where!r}, which was not given")
        else:
            text = item["msg"].removeprefix("Value error, ")
            text = text[0].lower() + text[1:] if text.startswith("Input should") else text
            text += _hint(item["type"], item["input"], text)
            given = f"{where}={item['input']!r}" if where else "these settings together"
            lines.append(f"{owner.__name__}: {given} is refused: {text}" if where else f"{owner.__name__}: {text}")
    return "\n".join(lines)


def _hint(kind: str, given: Any, text: str) -> str:
    """Return what a refused value may have been meant as.

    >>> _hint("literal_error", "bf61", "input should be 'fp32' or 'bf16'")
    " (did you mean 'bf16'?)"
    """
    if kind == "literal_error":
        return did_you_mean(str(given), re.findall(r"'([^']*)'", text))
    if kind in {"tuple_type", "list_type"} and isinstance(given, str | dict):
        return "; write several values as [1, 2], and one as [1]"
    return ""


def _unknown_field(owner: type[Settings], name: str) -> str:
    fields = list(owner.model_fields)
    return f"{owner.__name__} has no field {name!r}{did_you_mean(name, fields)}; its fields: {', '.join(fields)}"


def override(settings: S, assignments: Iterable[str]) -> S:
    """Return ``settings`` with each ``path=value`` applied in order; the originals are not touched.

    A value is read as the field's own type reads a text; ``none`` is None, and lists and dicts are JSON.

    >>> class Blur(Settings):
    ...     radius: int = 3
    >>> override(Blur(), ["radius=5"]).radius
    5
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise SettingError(f"{assignment!r} is not a setting; write path.to.field=value, for example steps=100")
        settings = _assign(settings, path.strip().split("."), text.strip(), done=())
    return settings


def _assign(settings: S, path: list[str], text: str, done: tuple[str, ...]) -> S:
    name, rest = path[0], path[1:]
    fields = type(settings).model_fields
    if name not in fields:
        where = ".".join((*done, name))
        inside = f" (in {where!r})" if done else ""
        raise SettingError(_unknown_field(type(settings), name) + inside)
    value = _within(getattr(settings, name), rest, text, (*done, name)) if rest else _read(text)
    given = {field: getattr(settings, field) for field in fields} | {name: value}
    if value is not None:
        rivals = {rival for group in settings.exclusive if name in group for rival in group if rival != name}
        given |= dict.fromkeys(rivals)
    return type(settings)(**given)


def _within(current: Any, rest: list[str], text: str, done: tuple[str, ...]) -> Any:
    """Return settings, or a tuple that holds some, with what the rest of a path leads to changed."""
    if isinstance(current, Settings):
        return _assign(current, rest, text, done)
    if isinstance(current, tuple) and len(rest) > 1 and any(isinstance(item, Settings) for item in current):
        place = _place(current, rest[0], done)
        changed = _assign(current[place], rest[1:], text, (*done, rest[0]))
        return (*current[:place], changed, *current[place + 1 :])
    where = ".".join(done)
    if current == ():
        raise SettingError(f"{where!r} is empty; say first what it is to hold, for example --set {where}={rest[0]}")
    raise SettingError(
        f"{where!r} is {_shown(current)}, which has no field {rest[0]!r}; set it in the recipe's own file"
    )


def _place(items: tuple[Any, ...], given: str, done: tuple[str, ...]) -> int:
    """Return which of several settings a path means, by its place from 0 or by its kind."""
    kinds = {type(item).__name__.lower(): place for place, item in enumerate(items) if isinstance(item, Settings)}
    if given.isdigit() and int(given) in kinds.values():
        return int(given)
    kind = given.lower().replace("_", "")  # gradient_noise is GradientNoise
    if kind not in kinds:
        raise SettingError(
            f"{'.'.join(done)!r} holds no settings {given!r}{did_you_mean(given, kinds)}; they are: "
            f"{', '.join(f'{place} ({kind})' for kind, place in kinds.items())}"
        )
    return kinds[kind]


def _read(text: str) -> Any:
    """Turn the text of an assignment into what a field's own validation takes."""
    if text.lower() in {"none", "null"}:
        return None
    if text[:1] in "[{" and text:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise SettingError(f"{text!r} looks like JSON but is not: {error}") from None
    return text


def _shown(value: Any) -> str:
    return describe_callable(value) if callable(value) else repr(value)


def describe_callable(value: Any) -> str:
    """Name a function, a class or an instance so that a reader, and a later run, can recognize it.

    >>> import math, functools
    >>> describe_callable(math.sqrt), describe_callable(functools.partial(round, ndigits=2))
    ('math.sqrt', 'builtins.round(ndigits=2)')
    """
    if isinstance(value, functools.partial):
        given = [repr(a) for a in value.args] + [f"{k}={v!r}" for k, v in value.keywords.items()]
        return f"{describe_callable(value.func)}({', '.join(given)})"
    named = value if inspect.isroutine(value) or inspect.isclass(value) else type(value)
    return f"{_module_of(named)}.{named.__qualname__}"


def _module_of(named: Any) -> str:
    """Return the module's name as another process would see it, whether the file was run, imported or loaded."""
    file = getattr(sys.modules["__main__"], "__file__", None) if named.__module__ == "__main__" else None
    return Path(file).stem if file else str(named.__module__).removeprefix(PRIVATE)


def strict(value: Any) -> Any:
    """Return plain values as strict JSON has them: numbers that it lacks become None.

    >>> strict({"loss": float("nan"), "steps": (1, 2)})
    {'loss': None, 'steps': [1, 2]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [strict(v) for v in value]
    return value


def plain(value: Any) -> Any:
    """Return ``value`` as plain JSON: settings as dicts, callables and other objects by name.

    >>> class Blur(Settings):
    ...     radius: int = 3
    >>> plain({"blur": Blur(), "f": len})
    {'blur': {'kind': 'Blur', 'radius': 3}, 'f': 'builtins.len'}
    """
    if isinstance(value, Settings):
        return {"kind": type(value).__name__} | {n: plain(getattr(value, n)) for n in type(value).model_fields}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Duration):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__} | fields
    try:
        return describe_callable(value) if callable(value) else f"{describe_callable(value)} of {len(value)} items"
    except TypeError:  # a DataLoader of a stream has __len__, and raises
        return describe_callable(value)
