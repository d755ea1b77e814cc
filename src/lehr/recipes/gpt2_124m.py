"""GPT-2 124M with the guide's settings, for a GPU: AdamW 6e-4, 2000 warm-up steps, cosine, 0.5 M tokens per update.

The guide's recipe (spec R-273) as it stands. The rate, the warm-up, the decay of 0.1 and the clipping come from
later reproductions in the manner of GPT-3, not from the GPT-2 paper. Betas 0.9/0.95 and the floor of a tenth are
those reproductions' too. `lehr train gpt2-124m --set data.path=train.bin --set data.val_path=val.bin`
"""

from __future__ import annotations

import functools

from lehr.data.sources import IGNORE
from lehr.data.text import TokenFileData
from lehr.losses import Supervised, cross_entropy
from lehr.models.gpt2 import GPT2Settings
from lehr.optim import AdamW
from lehr.run.recipe import Evaluate, Recipe, Save
from lehr.schedules import WarmupCosine

__all__ = ["recipe"]


def recipe() -> Recipe:
    """Return the recipe: 512 windows of 1024 tokens are 524,288 tokens an update, in 32 microbatches of 16."""
    return Recipe(
        model=GPT2Settings(),
        data=TokenFileData(context=1024, batch_size=512, val_batch_size=16),
        objective=Supervised(loss=functools.partial(cross_entropy, ignore=IGNORE), unit="token"),
        metrics=("perplexity",),
        optim=AdamW(lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1),
        schedule=WarmupCosine(warmup=2000, floor=0.1),
        steps=19073,
        accumulate=32,
        clip=1.0,
        precision="bf16",
        evaluate=Evaluate(every=250, batches=20),
        save=Save(every=1000),
    )
