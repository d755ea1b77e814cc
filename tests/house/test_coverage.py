"""The ledger of the guide: every line is accounted for, and what it names is there."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from blocks import ROOT

LEDGER = ROOT / "docs" / "coverage.toml"
PACKAGE = ROOT / "src" / "lehr"
LINES: dict[str, dict[str, Any]] = tomllib.loads(LEDGER.read_text())
TOPICS = {"finder", "tuning", "diagnosis", "parallel", "lessons", "drawings"}
"""What may come later."""


def numbered(first: int, last: int) -> set[str]:
    return {f"R-{number:03}" for number in range(first, last + 1)}


REQUIRED = numbered(7, 75) | numbered(82, 155) | numbered(165, 174) | numbered(177, 272)


def test_every_line_is_there_once_and_in_order() -> None:
    assert list(LINES) == sorted(numbered(1, 292))


@pytest.mark.parametrize("name", LINES)
def test_a_line_has_what_it_needs(name: str) -> None:
    line = LINES[name]
    assert line["what"].strip() and len(line["what"]) < 100
    if "status" in line:
        assert line.keys() == {"what", "status", "topic"}
        assert line["status"] == "later" and line["topic"] in TOPICS
        assert name not in REQUIRED, f"{name} cannot come later"
    else:
        assert line.keys() == {"what", "code", "test", "card"}
        assert all(line[key] and isinstance(line[key], list) for key in ("code", "test", "card"))


@pytest.mark.parametrize("name", [name for name in LINES if "status" not in LINES[name]])
def test_what_a_line_names_is_there(name: str) -> None:
    line = LINES[name]
    gone = [code for code in line["code"] if not (PACKAGE / code).is_file()]
    gone += [card for card in line["card"] if not (PACKAGE / "cards" / f"{card}.md").is_file()]
    for test in line["test"]:
        file, _, function = test.partition("::")
        path = ROOT / file
        if not path.is_file() or not re.search(rf"^def {re.escape(function)}\(", path.read_text(), re.MULTILINE):
            gone.append(test)
    assert gone == [], f"{name} ({line['what']}) names what is not there"
