"""`lehr list`: what there is, and when to choose which."""

from __future__ import annotations

import json

import pytest

from lehr.base.errors import SettingError
from lehr.cli.list import list_
from lehr.optim import OPTIMIZERS


def test_rows_with_their_summaries_and_the_extra_they_need(capsys: pytest.CaptureFixture[str]) -> None:
    list_("optimizers")
    printed = capsys.readouterr().out
    assert printed.startswith("optimizers:\n  adamw  ")
    assert "take a byte each (needs lehr[quant])" in printed
    assert len(printed.splitlines()) == 1 + len(OPTIMIZERS)


def test_when_to_choose_which(capsys: pytest.CaptureFixture[str]) -> None:
    list_("optimizers", help_me_choose=True)
    printed = capsys.readouterr().out
    assert "  If you do not know how long you will train -> schedule_free_adamw\n" in printed
    assert len(printed.splitlines()) == 1 + len(OPTIMIZERS)
    list_("optimizers", help_me_choose=True, json=True)
    found = json.loads(capsys.readouterr().out)
    assert found == {"optimizers": {row.name: row.choose for row in OPTIMIZERS.values()}}


def test_all_kinds_at_once_leave_out_those_without_a_choice(capsys: pytest.CaptureFixture[str]) -> None:
    list_(None, help_me_choose=True, json=True)
    found = json.loads(capsys.readouterr().out)
    assert {"optimizers", "schedules"} <= set(found) and "recipes" not in found
    list_(None, json=True)
    assert {"recipes", "metrics"} <= set(json.loads(capsys.readouterr().out))


def test_what_cannot_be_listed() -> None:
    with pytest.raises(SettingError, match="optimisers is unknown .did you mean 'optimizers'"):
        list_("optimisers")
    with pytest.raises(SettingError, match="lehr list recipes has no --help-me-choose; there is one for: optimizers"):
        list_("recipes", help_me_choose=True)
