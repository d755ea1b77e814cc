"""Settings are frozen and checked; overrides go by path; every message names what is allowed."""

from __future__ import annotations

import functools
from typing import ClassVar

import pytest
from pydantic import Field

from lehr.base.durations import DurationSetting
from lehr.base.errors import SettingError
from lehr.base.settings import Settings, override, plain


class Inner(Settings):
    rate: float = Field(default=0.1, gt=0)
    name: str = "a"
    betas: tuple[float, float] = (0.9, 0.99)
    flag: bool = False


class Outer(Settings):
    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = (("steps", "epochs"),)
    inner: Inner = Inner()
    steps: int | None = Field(default=10, ge=1)
    epochs: float | None = None
    every: DurationSetting = "10%"  # type: ignore[assignment]
    make: object = len


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        Outer().steps = 3  # type: ignore[misc]


def test_override_reads_values_as_their_field_does() -> None:
    changed = override(
        Outer(),
        [
            "inner.rate=3e-4",
            "inner.betas=[0.8, 0.95]",
            "inner.flag=true",
            "steps=20",
            "every=2 epochs",
            "inner.name=none2",
        ],
    )
    assert changed.inner == Inner(rate=3e-4, betas=(0.8, 0.95), flag=True, name="none2")
    assert changed.steps == 20
    assert str(changed.every) == "2 epochs"
    assert Outer().inner.rate == 0.1


def test_none_unsets() -> None:
    assert override(Outer(), ["steps=none"]).steps is None


def test_setting_one_of_two_exclusive_fields_unsets_the_other() -> None:
    changed = override(Outer(), ["epochs=3"])
    assert (changed.steps, changed.epochs) == (None, 3.0)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        (
            "inner.rato=1",
            r"Inner has no field 'rato' \(did you mean 'rate'\?\).*its fields: rate, name.*in 'inner.rato'",
        ),
        ("inne.rate=1", r"did you mean 'inner'"),
        ("inner.rate=-1", r"Inner: rate='-1' is refused: input should be greater than 0"),
        ("inner.rate=fast", r"rate='fast' is refused: input should be a valid number"),
        ("steps=0", r"steps='0' is refused.*greater than or equal to 1"),
        ("steps=1.5", r"steps='1.5' is refused"),
        ("inner.rate=inf", r"finite"),
        ("steps", r"write path.to.field=value"),
        ("=3", r"write path.to.field=value"),
        ("inner.betas=[1,", r"looks like JSON but is not"),
        ("make.size=3", r"'make' is builtins.len, which has no field 'size'"),
        ("steps.more=3", r"'steps' is 10, which has no field 'more'"),
        ("every=often", r"not a duration"),
    ],
)
def test_wrong_assignments_say_what_is_allowed(assignment: str, expected: str) -> None:
    with pytest.raises(SettingError, match=expected):
        override(Outer(), [assignment])


def test_unknown_keyword_names_the_nearest() -> None:
    with pytest.raises(SettingError, match=r"Inner has no field 'ratee' \(did you mean 'rate'\?\)"):
        Inner(ratee=1.0)  # type: ignore[call-arg]


def test_plain_is_json_and_names_callables() -> None:
    import json

    shown = plain(Outer(make=functools.partial(round, ndigits=2)))
    assert json.loads(json.dumps(shown)) == shown
    assert shown["make"] == "builtins.round(ndigits=2)"
    assert shown["inner"]["betas"] == [0.9, 0.99]
    assert shown["every"] == "10%"
