"""A folder of pictures, one folder per class, with a small residual network.

`lehr train images --set data.path=FOLDER`
"""

from __future__ import annotations

from lehr.data.images import ImageFolderData
from lehr.losses import Supervised, cross_entropy
from lehr.models.resnet import ResNetSettings
from lehr.optim import AdamW
from lehr.run.recipe import Evaluate, Recipe
from lehr.schedules import WarmupCosine

__all__ = ["recipe"]


def recipe() -> Recipe:
    """Return the recipe."""
    return Recipe(
        model=ResNetSettings(),
        data=ImageFolderData(batch_size=64),
        objective=Supervised(loss=cross_entropy),
        metrics=("accuracy",),
        optim=AdamW(lr=3e-3, weight_decay=0.05),
        schedule=WarmupCosine(warmup="5%"),
        epochs=20,
        evaluate=Evaluate(every="1 epoch", monitor="accuracy"),
    )
