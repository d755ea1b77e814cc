"""The page about schedules in a real browser: drawn, switched to a logarithmic axis, narrow, and silent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_browser import DRAWN, OVERFLOWING
from test_schedule_curve import curve

from lehr.reporting.schedule_page import write_schedule_page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

Open = Callable[..., Any]
FOUR = ["step", "multi_step(milestones=[30, 60, 80])", "exponential(gamma=0.95, every=1)", "cosine"]
AXIS = "() => document.getElementById('figure-0')._fullLayout.yaxis.type"


@pytest.fixture
def four(tmp_path: Path) -> Path:
    return write_schedule_page([curve(text, 100) for text in FOUR], tmp_path / "four.html")


def test_four_curves_together_and_each_by_itself(four: Path, open_page: Open) -> None:
    figures = open_page(four).evaluate(DRAWN)
    assert [figure["title"] for figure in figures][:6] == ["Learning rate", *FOUR, "Temperature"]
    assert figures[0]["legend"] == FOUR
    assert [len(figure["lines"]) for figure in figures] == [4, 1, 1, 1, 1, 4, 3]
    for figure in figures:
        for line in figure["lines"]:
            assert line["width"] > 200 and line["height"] > 3
    assert [figure["lines"][0]["color"] for figure in figures[1:5]] == [line["color"] for line in figures[0]["lines"]]


def test_the_four_stand_two_by_two(four: Path, open_page: Open) -> None:
    page = open_page(four)
    boxes = [page.locator(f"#figure-{place}").bounding_box() for place in (1, 2, 3, 4)]
    assert len({round(box["x"]) for box in boxes}) == len({round(box["y"]) for box in boxes}) == 2
    types = "[1, 2, 3, 4].map(i => document.getElementById('figure-' + i)._fullLayout.yaxis.type)"
    assert page.evaluate(types) == ["log"] * 4


def test_a_click_makes_the_axis_logarithmic_and_another_linear(four: Path, open_page: Open) -> None:
    page = open_page(four)
    assert page.evaluate(AXIS) == "linear"
    for kind in ("log", "linear"):
        page.locator("#figure-0 .updatemenu-button", has_text=kind).click()
        page.wait_for_function(f"kind => ({AXIS})() == kind", arg=kind)
    assert len(page.evaluate(DRAWN)[0]["lines"]) == 4


def test_on_a_phone_nothing_runs_over_the_edge(tmp_path: Path, open_page: Open) -> None:
    long = curve("cosine", name="a very long name of a schedule " * 4)
    page = open_page(write_schedule_page([long, curve("step")], tmp_path / "page.html"), width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate(OVERFLOWING) == []
