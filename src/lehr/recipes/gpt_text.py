"""A byte-level GPT on the source files of Python's standard library, or on any text.

Sized for about 80 seconds of training on two CPU cores: it should then need fewer bits per byte of unseen source code
than gzip -9. `lehr train gpt-text --set data.path=FILE` trains on a text of yours, `--set data.tokens=char` on its
characters.
"""

from __future__ import annotations

import functools

from lehr.data.sources import IGNORE
from lehr.data.text import TextData
from lehr.losses import Supervised, cross_entropy
from lehr.models.gpt import GPTSettings
from lehr.optim import AdamW, Muon
from lehr.run.recipe import Evaluate, Recipe, Save
from lehr.schedules import WarmupLinear

__all__ = ["recipe"]


def recipe() -> Recipe:
    """Return the recipe."""
    return Recipe(
        model=GPTSettings(width=128, depth=3, heads=4),
        data=TextData(context=256, batch_size=8, val_batch_size=16),
        objective=Supervised(loss=functools.partial(cross_entropy, ignore=IGNORE), unit="token"),
        metrics=("bits_per_byte",),
        optim=Muon(lr=0.02, momentum=0.9, adamw=AdamW(lr=6e-3, betas=(0.9, 0.95), weight_decay=0.0)),
        schedule=WarmupLinear(warmup="1.2%"),
        steps=850,
        clip=None,
        evaluate=Evaluate(every="20%", batches=16),
        save=Save(every="20%"),
    )
