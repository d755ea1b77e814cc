"""`lehr schedule`: recipes, expressions, both together; the JSON, the page, and what is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from commands import HEAD, RECIPE, lehr, unchanged

EXPRESSION = "warmup(200) then cosine(1800)"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*args: str) -> str:
    done = lehr("schedule", *args, "--json")
    assert done.code == 2, done
    message: str = done.json["error"]
    return message


def test_an_expression_as_an_object() -> None:
    found = lehr("schedule", EXPRESSION, "--lr", "0.2", "--batch-size", "64", "--momentum", "0.9", "--json").json
    assert found["steps"] == 2000 and len(found["at"]) == len(found["rates"]) == 500
    assert [(b["step"], b["phase"]) for b in found["boundaries"]] == [(0, "warm-up"), (200, "decay"), (1999, "end")]
    assert [b["rate"] for b in found["boundaries"][:2]] == pytest.approx([0.001, 0.2])
    assert found["boundaries"][1]["factor"] == 1.0
    assert found["boundaries"][1]["temperature"] == pytest.approx(0.2 / 6.4)
    by_hand = [
        0.2 * ((step + 1) / 200 if step < 200 else (1 + math.cos(math.pi * (step - 200) / 1800)) / 2)
        for step in found["at"]
    ]
    assert found["rates"] == pytest.approx(by_hand, abs=1e-15)
    assert found["temperature"] == pytest.approx([rate / 6.4 for rate in by_hand], abs=1e-15)
    assert found["momentum"] == [0.9] * 500


def test_an_expression_for_people() -> None:
    done = lehr("schedule", EXPRESSION)
    assert done.code == 0 and done.err == ""
    assert done.out.startswith(f"{EXPRESSION}: 2000 steps, base rate 0.1\n\nrate\n      0.1 |")
    assert "      200  decay             0.1           1     0.00313\n" in done.out
    assert done.out.isascii()


@pytest.mark.parametrize(
    ("args", "steps"),
    [
        ([EXPRESSION], 2000),
        (["warmup(5%) then cosine"], 1000),
        (["warmup(50) then cosine"], 1000),
        (["warmup(50) then cosine", "--steps", "60"], 60),
        (["repeated(cosine(7), 3)"], 21),
        (["cosine(50%)"], 1000),
    ],
)
def test_how_long_an_expression_is_drawn(args: list[str], steps: int) -> None:
    assert lehr("schedule", *args, "--json").json["steps"] == steps


def test_a_recipe_is_drawn_with_its_own_length_rate_and_batches(here: Path) -> None:
    (here / "mine.py").write_text(HEAD + RECIPE)
    with unchanged(here):
        done = lehr("schedule", "mine.py", "--set", "schedule=step", "--set", "schedule.every=2 epochs", "--json")
    found = done.json
    assert found["name"] == "mine.py --set schedule=step --set schedule.every=2 epochs"
    assert found["steps"] == 12
    assert [b["step"] for b in found["boundaries"]] == [0, 10, 11]
    assert found["rates"] == pytest.approx([1e-3] * 10 + [1e-4] * 2)
    assert found["temperature"][0] == pytest.approx(1e-3 / (8 * 0.1))


def test_a_built_in_recipe() -> None:
    done = lehr("schedule", "digits")
    assert done.code == 0
    assert done.out.startswith("digits: 460 steps, base rate 0.003\n")
    assert "       23  decay" in done.out and "rough guide" in done.out


def test_recipes_and_expressions_together_and_the_page(here: Path) -> None:
    (here / "mine.py").write_text(HEAD + RECIPE)
    args = ["mine.py:recipe", "cosine", "step", "--steps", "30", "--set", "steps=20", "--html", "page.html"]
    done = lehr("schedule", *args)
    assert done.code == 0
    assert [line for line in done.out.splitlines() if "steps, base rate" in line] == [
        "mine.py:recipe --set steps=20: 20 steps, base rate 0.001",
        "cosine: 30 steps, base rate 0.1",
        "step: 30 steps, base rate 0.1",
    ]
    assert done.out.endswith("page: page.html\n")
    assert "<title>3 schedules</title>" in (here / "page.html").read_text()
    both = lehr("schedule", *args, "--json").json["schedules"]
    assert [each["steps"] for each in both] == [20, 30, 30]


def test_a_schedule_of_rates_themselves_has_the_base_rate_one() -> None:
    found = lehr("schedule", "noam(warmup=4000)", "--steps", "9000", "--json").json
    assert found["boundaries"][1]["rate"] == pytest.approx((512 * 4000) ** -0.5)
    assert "'noam' gives rates themselves, so --lr 0.1 has no use" in refused("noam", "--lr", "0.1")


def test_a_plateau_has_no_curve_yet() -> None:
    for text in ("plateau", "warmup(100) then plateau"):
        assert "no curve ahead of time" in lehr("schedule", text).out
        assert "no curve ahead of time" in lehr("schedule", text, "--json").json["notes"][0]
    assert lehr("schedule", "cosine", "--json").json["notes"] == []


def test_a_cycled_momentum_is_drawn() -> None:
    text = "one_cycle(cycle_momentum=[0.85, 0.95])"
    found = lehr("schedule", text, "--json").json
    assert (min(found["momentum"]), max(found["momentum"])) == (pytest.approx(0.85, abs=1e-4), pytest.approx(0.95))
    assert "\nmomentum\n     0.95 |" in lehr("schedule", text).out
    assert "cycles the momentum, so --momentum has no use" in refused(text, "--momentum", "0.9")


REFUSED = {
    "unknown word": (["gpt-txt"], "'gpt-txt' is neither a recipe nor a schedule (did you mean 'gpt-text'?); recipes: g"),
    "unknown schedule": (["cosin"], "'cosin' is neither a recipe nor a schedule (did you mean 'cosine'?)"),
    "expression": (["warmup(200) than cosine"], "'than' is not expected here (did you mean 'then'?); use 'then' or"),
    "in expression": (["warmup(200) then cosin"], "unknown schedule 'cosin' (did you mean 'cosine'?), in column 18\n"),
    "field": (["step(evry=3)"], "StepDecay has no field 'evry' (did you mean 'every'?)"),
    "file": (["nofile.py"], "nofile.py does not exist"),
    "module": (["some.module:recipe"], "unknown recipe 'some.module:recipe'"),
    "too long": (["cosine(500)", "--steps", "100"], "Cosine lasts 500 steps, but the run has 100"),
    "epochs": (["cosine(2 epochs)"], "'2 epochs' cannot be turned into steps"),
    "rate": (["cosine", "--lr", "0"], "--lr 0 is no rate; give a number above 0"),
    "no rate": (["cosine", "--lr", "nan"], "--lr nan is no rate"),
    "momentum": (["cosine", "--momentum", "1"], "--momentum 1 is refused; give 0 or more and less than 1"),
    "steps": (["cosine", "--steps", "0"], "Invalid value for '--steps'"),
    "batch": (["cosine", "--batch-size", "0"], "Invalid value for '--batch-size'"),
    "no use for a recipe": (["digits", "--steps", "9", "--lr", "1"], "--steps, --lr would have no effect on a recipe"),
    "no use for an expression": (["cosine", "--set", "steps=3"], "--set steps=3 would have no effect on an expression"),
    "nothing": ([], "Missing argument"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(here: Path, case: str) -> None:
    args, message = REFUSED[case]
    assert message in refused(*args)
    assert list(here.iterdir()) == []


def test_a_page_that_cannot_be_written_is_refused() -> None:
    assert "cannot be written" in refused("cosine", "--html", "nowhere/page.html")


def test_expressions_need_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['lehr', 'schedule', 'warmup(5) then cosine']\n"
        "from lehr.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
