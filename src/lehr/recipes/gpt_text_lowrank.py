"""The byte-level GPT of `gpt-text`, three times as wide, with progressive low rank.

Dense layers first; from 45 % of the run on, each of the wide matrices is two factors. What that saves, and what
it costs against the dense model and against a narrower one, stands in the card.
"""

from __future__ import annotations

from lehr.models.gpt import GPTSettings
from lehr.optim import AdamW, Rule
from lehr.recipes import gpt_text
from lehr.run.recipe import Evaluate, Recipe
from lehr.schedules import WarmupLinear
from lehr.training.methods import ProgressiveLowRank

__all__ = ["recipe"]


def recipe() -> Recipe:
    """Return the recipe."""
    return gpt_text.recipe().model_copy(
        update={
            "model": GPTSettings(width=384, depth=3, heads=6),
            "optim": AdamW(lr=6e-3, betas=(0.9, 0.95), weight_decay=0.0, rules=(Rule(pattern="blocks.*", rate=0.25),)),
            "schedule": WarmupLinear(warmup="5%"),
            "methods": (ProgressiveLowRank(at="45%", ratio=0.15, factor_rate=2.0),),
            "steps": 300,
            "evaluate": Evaluate(every="10%", batches=16),
        }
    )
