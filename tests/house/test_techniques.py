"""The page of techniques is complete, and what it says to set or to import is understood."""

from __future__ import annotations

import functools
import importlib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pytest
import typer
from blocks import ROOT
from torch import nn

from lehr import layers, losses, optim, transfer
from lehr.base.errors import SettingError
from lehr.base.settings import override
from lehr.cli.main import app
from lehr.cli.tables import tables
from lehr.models.convnet import ConvNetSettings
from lehr.models.gpt import GPTSettings
from lehr.models.resnet import ResNetSettings
from lehr.recipes.table import RECIPES
from lehr.run.recipe import Recipe

PAGE = (ROOT / "docs" / "techniques.md").read_text()
SECTIONS = [
    "Schedules",
    "Optimizers and parameter groups",
    "Gradients",
    "Losses and penalties",
    "Layers and initialization",
    "Low rank",
    "Augmentation",
    "Averages and ensembles",
    "Transfer",
    "Scaling and stopping",
    "Loop",
]
HEADER = "| technique | in a recipe | in a loop of your own | card |"
FACTS = {"channels": 1, "num_classes": 10, "vocab_size": 256, "context": 16}
"""What data would say of itself to these models."""
TRIED = ("digits", "gpt-text", "digits-mixup")
"""The first of these that has all the fields of a row is taken."""
FIELDS = {
    "optimizers": "optim",
    "schedules": "schedule",
    "methods": "methods",
    "losses": "objective",
    "metrics": "metrics",
}
IN_PYTHON = {"objective=distillation": "objective=Distilled("}
"""What has no defaults, and so cannot be set by its name alone."""
PYTHON = re.compile(r"(\w+)=((?:[A-Z]\w*\(|lambda ).*)")


@dataclass(frozen=True)
class Technique:
    """A row of the page; all but the name are the code in its cells."""

    name: str
    recipe: tuple[str, ...]
    loop: tuple[str, ...]
    cards: tuple[str, ...]


def rows(text: str) -> list[Technique]:
    found = []
    for line in text.splitlines():
        if line.startswith("| ") and line != HEADER:
            name, *cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            assert len(cells) == 3, line
            codes = [tuple(re.findall(r"`([^`]+)`", cell)) for cell in cells]
            assert all(code or cell == "–" for code, cell in zip(codes, cells, strict=True)), line
            found.append(Technique(name, *codes))
    return found


TECHNIQUES = rows(PAGE)
each_technique = pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda technique: technique.name)


def test_sections_each_have_a_table() -> None:
    headings = re.split(r"^## (.*)$", PAGE, flags=re.MULTILINE)[1:]
    assert headings[::2] == SECTIONS
    for section in headings[1::2]:
        assert section.count(HEADER) == 1 and rows(section)


def test_a_name_is_there_once() -> None:
    names = [technique.name for technique in TECHNIQUES]
    assert sorted(set(names)) == sorted(names)


def test_every_card_is_listed_and_no_other() -> None:
    cards = {file.name.removesuffix(".md") for file in files("lehr").joinpath("cards").iterdir()}
    assert {card for technique in TECHNIQUES for card in technique.cards} == cards


@pytest.mark.parametrize("table", FIELDS)
def test_every_row_of_a_table_is_listed_as_it_is_set(table: str) -> None:
    said = [code for technique in TECHNIQUES for code in technique.recipe]
    for name in tables()[table]:
        setting = f"{FIELDS[table]}={name}"
        python = IN_PYTHON.get(setting)
        assert any(code.startswith(python) for code in said) if python else setting in said, f"{setting} is missing"


@each_technique
def test_what_is_for_a_loop_of_ones_own_can_be_imported(technique: Technique) -> None:
    for dotted in technique.loop:
        module, _, name = dotted.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name)), dotted


def with_settings(recipe: Recipe, codes: tuple[str, ...]) -> Recipe:
    """Return the recipe with what the cell of a row says, in its order."""
    for code in codes:
        if python := PYTHON.fullmatch(code):
            given = {name: getattr(recipe, name) for name in Recipe.model_fields}
            recipe = Recipe(**given | {python[1]: eval(python[2], names(recipe))})
        else:
            recipe = override(recipe, [code])
    return recipe


def names(recipe: Recipe) -> dict[str, Any]:
    """Return what the author of a recipe file has at hand."""
    own = {"model": recipe.model.build(FACTS), "make_model": functools.partial(nn.Linear, 4, 2)}
    folders = {name: getattr(f, name) for f in (layers, losses, optim, transfer) for name in f.__all__}
    models = {kind.__name__: kind for kind in (ConvNetSettings, GPTSettings, ResNetSettings)}
    return own | folders | models


@each_technique
def test_what_is_for_a_recipe_is_understood(technique: Technique) -> None:
    codes = tuple(code for code in technique.recipe if not code.startswith("lehr "))
    refusals = []
    for name in TRIED:
        try:
            recipe = with_settings(RECIPES[name].make()(), codes)
            model = recipe.model.build(FACTS)
            if "optim=adamw_8bit" not in codes:  # needs an extra
                recipe.optim.build(model)
            return
        except SettingError as error:
            refusals.append(f"{name}: {error}")
    raise AssertionError("\n".join(refusals))


@each_technique
def test_commands_exist_with_their_options(technique: Technique) -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for command in (code.split() for code in technique.recipe if code.startswith("lehr ")):
        options = {option for parameter in known[command[1]].params for option in parameter.opts}
        assert {word for word in command if word.startswith("--")} <= options


def test_readme_counts_what_has_a_name() -> None:
    text = (ROOT / "README.md").read_text().partition("## Techniques")[2]
    counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (\w+)", text.partition(" have a name")[0])}
    assert counts == {kind: len(table) for kind, table in tables().items() if kind != "recipes"}
