"""The report in a real browser: drawn, zoomed, narrow, and silent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import recipe

import lehr
from lehr.optim import AdamW
from lehr.reporting.report import write_report

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FIGURES = ["Loss", "Accuracy on validation data", "Learning rate", "Gradient norm before clipping", "Throughput"]
DRAWN = """() => [...document.querySelectorAll('.figures > section')].map(section => ({
    title: section.querySelector('h3').textContent,
    legend: [...section.querySelectorAll('.legendtext')].map(text => text.textContent),
    lines: [...section.querySelectorAll('.scatterlayer path.js-line')].map(line => ({
        points: line.getAttribute('d').split(/[ML]/).length - 1,
        width: line.getBoundingClientRect().width,
        height: line.getBoundingClientRect().height,
        color: line.style.stroke,
    })),
}))"""
RANGES = "() => { const l = document.getElementById('figure-0')._fullLayout; return [l.xaxis.range, l.yaxis.range]; }"
OVERFLOWING = """() => [...document.querySelectorAll('body *')]
    .filter(element => !element.closest('svg, .wide, .js-plotly-plot') && element.tagName != 'SCRIPT')
    .filter(element => element.getBoundingClientRect().right > innerWidth + 1)
    .map(element => element.outerHTML.slice(0, 80))"""

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    lehr.train(recipe(steps=60), run_dir=folder / "first")
    lehr.train(recipe(steps=80, optim=AdamW(lr=0.03)), run_dir=folder / "second")
    return [folder / "first", folder / "second"]


def test_every_curve_is_drawn(runs: list[Path], open_page: Open) -> None:
    figures = {figure["title"]: figure["lines"] for figure in open_page(runs[0] / "report.html").evaluate(DRAWN)}
    assert list(figures) == FIGURES
    assert [len(lines) for lines in figures.values()] == [2, 1, 1, 1, 1]
    assert figures["Loss"][0]["points"] == 30
    for lines in figures.values():
        for line in lines:  # of points on a straight line, only the ends are drawn
            assert line["points"] > 5 and line["width"] > 200 and line["height"] > 50


def test_dragging_zooms_and_a_double_click_shows_all_again(runs: list[Path], open_page: Open) -> None:
    page = open_page(runs[0] / "report.html")
    whole = page.evaluate(RANGES)
    box = page.locator("#figure-0 .nsewdrag").bounding_box()
    across = [box["x"] + box["width"] * share for share in (0.25, 0.75)]
    down = [box["y"] + box["height"] * share for share in (0.25, 0.75)]
    page.mouse.move(across[0], down[0])
    page.mouse.down()
    page.mouse.move(across[1], down[1], steps=5)
    page.mouse.up()
    page.wait_for_function(
        f"whole => JSON.stringify(({RANGES})()) != whole", arg=json.dumps(whole, separators=(",", ":"))
    )
    for (low, high), (all_low, all_high) in zip(page.evaluate(RANGES), whole, strict=True):
        assert all_low < low < high < all_high
        assert (high - low) / (all_high - all_low) == pytest.approx(0.5, abs=0.05)
    page.mouse.dblclick(*(sum(place) / 2 for place in (across, down)))
    page.wait_for_function(
        f"whole => JSON.stringify(({RANGES})()) == whole", arg=json.dumps(whole, separators=(",", ":"))
    )


def test_pointing_at_a_curve_shows_its_values(runs: list[Path], open_page: Open) -> None:
    page = open_page(runs[0] / "report.html")
    box = page.locator("#figure-0 .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#figure-0 .hoverlayer .legendtext")
    shown = page.locator("#figure-0 .hoverlayer").text_content()
    assert "step 3" in shown and "train : " in shown


@pytest.mark.parametrize("several", [False, True], ids=["one run", "two runs"])
def test_on_a_phone_nothing_runs_over_the_edge(
    runs: list[Path], open_page: Open, tmp_path: Path, several: bool
) -> None:
    long = shutil.copytree(runs[0], tmp_path / ("a-very-long-name-of-a-run" * 3))
    result = json.loads((long / "result.json").read_text())
    (long / "result.json").write_text(json.dumps(result | {"sample": "x" * 500, "stopped": "stopped" * 9}))
    page = open_page(write_report([long, runs[1]] if several else [long], tmp_path / "page.html"), width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate(OVERFLOWING) == []
    for figure in page.evaluate(DRAWN):
        for line in figure["lines"]:
            assert 100 < line["width"] < 390


def test_curves_follow_the_width_of_the_window(runs: list[Path], open_page: Open) -> None:
    page = open_page(runs[0] / "report.html")
    page.set_viewport_size({"width": 700, "height": 800})
    page.wait_for_function("document.querySelector('#figure-0 .nsewdrag').getBoundingClientRect().width < 650")
    assert page.evaluate("document.documentElement.scrollWidth") == 700


def test_two_runs_are_laid_over_one_another(runs: list[Path], open_page: Open, tmp_path: Path) -> None:
    page = open_page(write_report(runs, tmp_path / "both.html"))
    loss, *others = page.evaluate(DRAWN)
    assert loss["legend"] == ["first train", "first val", "second train", "second val"]
    assert len(loss["lines"]) == 4
    for figure in others:
        assert figure["legend"] == ["first", "second"]
        assert len({line["color"] for line in figure["lines"]}) == 2
    assert page.title() == "first and second"
    assert page.locator("h2", has_text="Settings that differ").is_visible()


def test_hostile_names_and_samples_do_nothing(runs: list[Path], open_page: Open, tmp_path: Path) -> None:
    name = "<b>bold<img src=x onerror=alert(1)><script>alert(2)"
    hostile = [shutil.copytree(runs[0], tmp_path / f"{place}{name}") for place in (1, 2)]
    for run in hostile:
        result = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps(result | {"sample": "</pre></script><script>alert(3)</script>"}))
    page = open_page(write_report(hostile, tmp_path / "page.html"))
    assert page.locator("h1").text_content() == f"1{name} and 2{name}"
    assert page.locator("pre").first.text_content() == "</pre></script><script>alert(3)</script>"
    assert page.evaluate(DRAWN)[1]["legend"] == [f"1{name}", f"2{name}"]
    assert page.locator("img").count() == 0


def test_a_failed_run_says_so_at_the_top(runs: list[Path], open_page: Open, tmp_path: Path) -> None:
    failed = shutil.copytree(runs[0], tmp_path / "failed")
    (failed / "result.json").unlink()
    (failed / "failure.json").write_text(json.dumps({"step": 60, "message": "the loss is nan"}))
    page = open_page(write_report([failed], tmp_path / "page.html"))
    assert "The run failed. the loss is nan" in page.locator(".failed").text_content()
    assert page.locator(".failed").bounding_box()["y"] < page.locator(".figures").bounding_box()["y"]
