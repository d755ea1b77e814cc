"""The recipes that can be named on the command line."""

from __future__ import annotations

import importlib

from lehr.base.tables import Row, Table

__all__ = ["RECIPES"]


def _row(name: str, summary: str) -> Row:
    """Return the row of a recipe; its module is imported only when the recipe is asked for."""
    module = f"lehr.recipes.{name.replace('-', '_')}"
    return Row(name=name, make=lambda: importlib.import_module(module).recipe, summary=summary)


RECIPES = Table(
    "recipe",
    [
        _row("gpt-text", "a byte-level GPT on Python's own source files, or on any text (data.path=FILE)"),
        _row("digits", "handwritten digits with a small convolutional network"),
        _row(
            "digits-fast", "reaches 98 % of the digits in a tenth of a second: one layer of convolutions, a high rate"
        ),
        _row("digits-mixup", "the digits with mixup, label smoothing, DropPath and averaged weights"),
        _row("digits-one-cycle", "the digits in 6 epochs: one cycle of a high rate (super-convergence)"),
        _row("digits-distill", "a very small network that learns the digits from a large one (distillation)"),
        _row("digits-pretrain", "the digits 0 to 4: what digits-transfer starts from"),
        _row("digits-transfer", "from the digits 0 to 4 to 5 to 9, with 25 pictures and gradual unfreezing"),
        _row("gpt-wsd", "a smaller GPT with warm-up-stable-decay and Muon"),
        _row("gpt-fast", "a small GPT that reaches a modest loss on a small text as soon as it can"),
        _row("gpt-text-lowrank", "gpt-text three times as wide, with progressive low rank"),
        _row("translate", "an encoder-decoder on English and Chinese names, or on pairs (data.path=FILE.tsv)"),
        _row("translate-lowrank", "the guide's base case at width 512, with progressive low rank"),
        _row("images", "a small residual network on a folder of pictures per class (data.path=FOLDER)"),
        _row("gpt2-124m", "GPT-2 124M with the guide's settings, for a GPU (data.path=TOKENS)"),
    ],
)
