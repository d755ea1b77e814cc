"""The page about schedules: one file that needs nothing else, with every curve, both axes and the temperature."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from test_report import HOSTILE, Page
from test_schedule_curve import curve

from lehr.base.durations import RunLength
from lehr.base.errors import SettingError
from lehr.reporting.schedule_page import figures, landscape, render, write_schedule_page
from lehr.schedules import SCHEDULES
from lehr.schedules.expression import parse

FOUR = ["step", "multi_step(milestones=[30, 60, 80])", "exponential(gamma=0.95, every=1)", "cosine"]
PICTURE = "Hot and cold: a picture, not this model"


def by_title(*texts: str, steps: int = 100) -> dict[str, dict[str, Any]]:
    return {figure["title"]: figure for figure in figures([curve(text, steps) for text in texts])}


def test_a_page_of_one_schedule(tmp_path: Path) -> None:
    file = write_schedule_page([curve("warmup(200) then cosine", momentum=0.9, other="AdamW")], tmp_path / "s.html")
    page = Page(file)
    assert list(page.figures) == ["Learning rate", "Temperature", PICTURE]
    assert "warmup(200) then cosine" in page.text
    assert "200\ndecay\n0.1\n1\n0.9\n0.03125\n" in page.text
    assert "temperature = rate / (batch size 32 * (1 - momentum 0.9))" in page.text
    assert "slow heating, then cooling" in page.text and "With AdamW it is a rough guide only" in page.text
    assert not [a for tag, a in page.elements if tag in {"script", "link", "img"} and a.get("src")]
    assert [path.name for path in tmp_path.iterdir()] == ["s.html"]


def test_the_grid_of_four_decays_over_a_hundred_epochs() -> None:
    found = by_title(*FOUR)
    assert list(found) == ["Learning rate", *FOUR, "Temperature", PICTURE]
    together = found["Learning rate"]["data"]
    assert [trace["name"] for trace in together] == FOUR
    assert len({trace["line"]["color"] for trace in together}) == 4
    formulas = [
        lambda e: 0.1 * 0.1 ** (e // 30),
        lambda e: 0.1 * 0.1 ** sum(e >= milestone for milestone in (30, 60, 80)),
        lambda e: 0.1 * 0.95**e,
        lambda e: 0.1 * (1 + math.cos(math.pi * e / 100)) / 2,
    ]
    for name, trace, formula in zip(FOUR, together, formulas, strict=True):
        assert trace["x"] == list(range(100))
        assert trace["y"] == pytest.approx([formula(e) for e in range(100)])
        alone = found[name]
        assert alone["layout"]["yaxis"]["type"] == "log"
        assert alone["data"][0]["y"] == trace["y"] and alone["data"][0]["line"] == trace["line"]


def test_both_axes_can_be_chosen() -> None:
    for title in ("Learning rate", "Temperature"):
        layout = by_title("cosine")[title]["layout"]
        buttons = layout["updatemenus"][0]["buttons"]
        assert [(b["label"], b["args"]) for b in buttons] == [
            ("linear", [{"yaxis.type": "linear"}]),
            ("log", [{"yaxis.type": "log"}]),
        ]
        assert layout["yaxis"]["type"] == "linear"


def test_the_temperature_is_the_rate_over_batch_size_and_momentum() -> None:
    drawn = figures([curve("cosine", 100, batch_size=50, momentum=0.8)])
    rates, heat = (figure["data"][0]["y"] for figure in drawn[:2])
    assert heat == pytest.approx([rate / (50 * 0.2) for rate in rates])


def test_a_momentum_is_drawn_where_it_is_cycled() -> None:
    cycled = parse("one_cycle(cycle_momentum=[0.85, 0.95])").momentum(RunLength(100))
    drawn = {f["title"]: f for f in figures([curve("one_cycle", 100, momentum=cycled)])}
    assert list(drawn) == ["Learning rate", "Temperature", "Momentum", PICTURE]
    assert min(drawn["Momentum"]["data"][0]["y"]) == pytest.approx(0.85)
    assert "Momentum" not in by_title("one_cycle")


def test_long_curves_are_thinned_but_their_jumps_stay_sharp() -> None:
    trace = by_title("step(every=33333)", steps=100_000)["Learning rate"]["data"][0]
    assert len(trace["x"]) <= 1010
    for jump in (33_333, 66_666, 99_999):
        place = trace["x"].index(jump)
        assert trace["x"][place - 1] == jump - 1
        assert trace["y"][place] == pytest.approx(trace["y"][place - 1] / 10)


def test_the_picture_has_two_valleys_and_the_cold_stays_in_the_deeper() -> None:
    loss, hot, cold = landscape()["data"]
    x, y = loss["x"], loss["y"]
    valleys = [x[i] for i in range(1, len(x) - 1) if y[i] < min(y[i - 1], y[i + 1])]
    assert len(valleys) == 2 and valleys[0] < 0 < valleys[1]
    width = x[1] - x[0]
    for trace in (hot, cold):
        assert sum(trace["y"]) * width == pytest.approx(1)
    share = {t["name"]: sum(v for p, v in zip(t["x"], t["y"], strict=True) if p < 0) * width for t in (hot, cold)}
    assert share["cold: stays in a valley"] > 0.99
    assert 0.5 < share["hot: everywhere"] < 0.75


def test_every_schedule_is_in_the_table_of_meanings_or_is_made_of_those() -> None:
    page = render([curve("cosine")])
    table = page.partition("Schedules as temperatures")[2]
    made_of = {"warmup_cosine", "warmup_linear", "inverse_sqrt", "noam", "wsd"}
    assert [name for name in SCHEDULES if name not in made_of and name not in table] == []


def test_hostile_names_do_nothing(tmp_path: Path) -> None:
    page = Page(write_schedule_page([curve("cosine", name=HOSTILE), curve("step", name=HOSTILE)], tmp_path / "s.html"))
    assert len(page.scripts) == 2  # Plotly, and the calls
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert HOSTILE in page.text


def test_many_phases_are_cut_and_it_is_said() -> None:
    page = render([curve("cyclic(up=2)")])
    assert "300 more phases are not listed." in page or "301 more phases are not listed." in page
    assert page.count("<tr>") < 230


def test_a_page_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"the page .*nowhere/s.html cannot be written: No such file"):
        write_schedule_page([curve("cosine")], tmp_path / "nowhere" / "s.html")
