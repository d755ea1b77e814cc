"""The digits 0 to 4, to learn features from that `digits-transfer` then uses for the digits 5 to 9."""

from __future__ import annotations

from lehr.data.digits import DigitsData
from lehr.losses import Supervised, cross_entropy
from lehr.models.convnet import ConvNetSettings
from lehr.optim import AdamW
from lehr.run.recipe import Evaluate, Recipe
from lehr.schedules import WarmupCosine

__all__ = ["recipe"]


def recipe() -> Recipe:
    """Return the recipe."""
    return Recipe(
        model=ConvNetSettings(),
        data=DigitsData(digits=(0, 1, 2, 3, 4), batch_size=64, val_batch_size=180),
        objective=Supervised(loss=cross_entropy),
        metrics=("accuracy",),
        optim=AdamW(lr=3e-3, weight_decay=0.05),
        schedule=WarmupCosine(warmup="5%"),
        epochs=20,
        evaluate=Evaluate(every="1 epoch", monitor="accuracy"),
    )
