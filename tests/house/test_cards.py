"""Every technique that has a name has a card, and every card has the same sections; its settings are understood."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from blocks import ROOT

import lehr
from lehr.base.settings import override
from lehr.levers import LEVERS
from lehr.models.gpt import GPTSettings
from lehr.optim import OPTIMIZERS
from lehr.recipes.gpt_text import recipe
from lehr.schedules import SCHEDULES
from lehr.training.methods import METHODS

PACKAGE = ROOT / "src" / "lehr"
CARDS = sorted((PACKAGE / "cards").glob("*.md"))
SECTIONS = [
    "What it is",
    "When it helps",
    "When it does not",
    "Defaults here and why",
    "Where",
    "What the guide says wrong",
    "Measured",
]
OTHER_NAMES = {
    "l1_penalty": "l1",
    "l2_penalty": "l2",
    "constant": "constant-schedule",
    "step": "step-decay",
    "schedule_free_adamw": "schedule-free",
    "schedule_free_sgd": "schedule-free",
    "dynamic_lowrank": "dynamic-rank",
    "projected": "projected-optimizer",
    "lowrank_layers": "selective-low-rank",
    "progressive_lowrank": "progressive-low-rank",
    **dict.fromkeys(("compile-blocks", "cuda-graphs"), "compile"),
    **dict.fromkeys(("bf16", "fp16", "tf32"), "mixed-precision"),
    "8-bit-optimizer": "adamw-8bit",
}
each_card = pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)


@pytest.mark.parametrize("name", [*OPTIMIZERS, *SCHEDULES, *METHODS, *LEVERS])
def test_every_row_has_a_card(name: str) -> None:
    assert OTHER_NAMES.get(name, name.replace("_", "-")) in [card.stem for card in CARDS]


@each_card
def test_card_has_the_sections_with_something_in_them(card: Path) -> None:
    text = card.read_text()
    assert re.match(r"# \S", text)
    assert len(text.splitlines()) < 60
    headings = re.split(r"^## (.*)$", text, flags=re.MULTILINE)[1:]
    assert headings[::2] == SECTIONS
    assert all(section.strip() for section in headings[1::2])


@each_card
def test_files_of_a_card_exist(card: Path) -> None:
    text = card.read_text()
    files = re.findall(r"`([\w/-]+\.py)`", text)
    assert files, "a card names the file of its technique"
    assert [file for file in files if not (PACKAGE / file).is_file()] == []
    for other in re.findall(r"cards? `([\w-]+)`", text):
        assert (PACKAGE / "cards" / f"{other}.md").is_file(), f"{card.name} names the card {other}"


@each_card
def test_settings_of_a_card_are_understood(card: Path) -> None:
    assignments = re.findall(r"`--set ([^`]+)`", card.read_text())
    whole = [a for a in assignments if a.partition("=")[0] in {"optim", "schedule", "methods"}]
    start = override(recipe(), ["metrics=accuracy", *whole[:1]])
    assert isinstance(start, lehr.Recipe)
    assert isinstance(start.model, GPTSettings)
    for assignment in assignments:
        override(start, [assignment])
