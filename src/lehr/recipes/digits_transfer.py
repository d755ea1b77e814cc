"""Transfer: a network trained on the digits 0 to 4 learns 5 to 9 from 25 pictures, one block more at a time.

It starts from a run of the recipe `digits-pretrain`, trained in `runs/digits-pretrained` where it is not there yet. The
head is new; lower blocks join later and at lower rates. `--set weights=FILE` starts from other weights, and
`--set weights=none --set weights_leave=[] --set methods=[]` from none.
"""

from __future__ import annotations

from pathlib import Path

from lehr.data.digits import DigitsData
from lehr.losses import Supervised, cross_entropy
from lehr.models.convnet import ConvNetSettings
from lehr.optim import AdamW
from lehr.recipes.trained import trained
from lehr.run.recipe import Evaluate, Recipe
from lehr.schedules import WarmupCosine
from lehr.training.methods import GradualUnfreezing

__all__ = ["pretrained", "recipe"]


def pretrained() -> Path:
    """Return the run on the digits 0 to 4."""
    return trained("digits-pretrain", Path("runs/digits-pretrained"))


def recipe() -> Recipe:
    """Return the recipe."""
    return Recipe(
        model=ConvNetSettings(),
        data=DigitsData(digits=(5, 6, 7, 8, 9), examples=25, batch_size=25, val_batch_size=180),
        objective=Supervised(loss=cross_entropy),
        metrics=("accuracy",),
        optim=AdamW(lr=3e-3, weight_decay=0.05, layer_decay=0.7),
        schedule=WarmupCosine(warmup="5%"),
        methods=(GradualUnfreezing(every="5%"),),
        steps=40,
        evaluate=Evaluate(every="25%", monitor="accuracy"),
        weights=pretrained,
        weights_leave=("head.*",),
    )
