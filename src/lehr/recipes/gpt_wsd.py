"""The GPT of `gpt-text` with a warm-up-stable-decay schedule and Muon.

The rate stays at its height until the last fifth of the run: a run that is to be longer can go on from any checkpoint
before that (`lehr resume RUN --set steps=2000`), which a cosine does not allow.
"""

from __future__ import annotations

import functools

from lehr.data.sources import IGNORE
from lehr.data.text import TextData
from lehr.losses import Supervised, cross_entropy
from lehr.models.gpt import GPTSettings
from lehr.optim import AdamW, Muon
from lehr.run.recipe import Evaluate, Recipe, Save
from lehr.schedules import WSD

__all__ = ["recipe"]


def recipe() -> Recipe:
    """Return the recipe."""
    return Recipe(
        model=GPTSettings(width=96, depth=3, heads=4),
        data=TextData(context=128, batch_size=16, val_batch_size=32),
        objective=Supervised(loss=functools.partial(cross_entropy, ignore=IGNORE), unit="token"),
        metrics=("bits_per_byte",),
        optim=Muon(lr=0.02, momentum=0.9, adamw=AdamW(lr=6e-3, betas=(0.9, 0.95), weight_decay=0.0)),
        schedule=WSD(warmup="2%", decay="20%"),
        steps=500,
        clip=None,
        evaluate=Evaluate(every="20%", batches=16),
        save=Save(every="20%"),
    )
