"""From what was typed to where a recipe is: a built-in name, a file, or neither."""

from __future__ import annotations

from pathlib import Path

from lehr.base.errors import SettingError
from lehr.base.tables import did_you_mean
from lehr.recipes.table import RECIPES

__all__ = ["recipe_place"]


def recipe_place(text: str) -> str:
    """Return ``file.py:function`` or ``module:function`` for what was typed.

    >>> recipe_place("digits"), recipe_place("mine.py:small")
    ('lehr.recipes.digits:recipe', 'mine.py:small')
    """
    if text in RECIPES:
        return f"lehr.recipes.{text.replace('-', '_')}:recipe"
    place = text.rpartition(":")[0] or text
    if place.endswith(".py"):
        return text
    hint = "; did you mean the file's name with .py?" if Path(f"{place}.py").is_file() else ""
    raise SettingError(
        f"unknown recipe {text!r}{did_you_mean(text, RECIPES) or hint}; give FILE.py, FILE.py:FUNCTION or one of: "
        f"{', '.join(RECIPES)}"
    )
