"""The guide's base case at its width of 512, with progressive low rank from the tenth of fifty epochs on."""

from __future__ import annotations

from lehr.models.seq2seq import Seq2SeqSettings
from lehr.recipes import translate
from lehr.run.recipe import Recipe
from lehr.training.methods import ProgressiveLowRank

__all__ = ["recipe"]


def recipe() -> Recipe:
    """Return the recipe."""
    return translate.recipe().model_copy(
        update={
            "model": Seq2SeqSettings(width=512),
            "methods": (ProgressiveLowRank(at="10 epochs", ratio=0.1, allowed=1.0),),
        }
    )
