"""The GPT of `gpt-text`, sized and tuned to reach a modest loss on a small text as soon as it can.

`benchmarks/time_to_loss.py` measures it: characters of a book (`data.path=FILE data.tokens=char`), or bytes of Python's
standard library, on two CPU threads. `--set precision=bf16-weights` makes it faster on processors with products in
bf16. For a better loss, and not a quick one, take `gpt-text`.
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
        data=TextData(context=64, batch_size=16, val_batch_size=128),
        objective=Supervised(loss=functools.partial(cross_entropy, ignore=IGNORE), unit="token"),
        metrics=("bits_per_byte",),
        optim=Muon(lr=0.05, momentum=0.9, adamw=AdamW(lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)),
        schedule=WarmupLinear(warmup="2%"),
        steps=220,
        clip=None,
        evaluate=Evaluate(every=10),
        save=Save(every="100%", best=False),
    )
