"""The digits with the usual regularization of image classification: mixup, label smoothing, DropPath and EMA.

The validation loss is the plain cross entropy; `ema_loss` and `ema_accuracy` are those of the averaged weights.
"""

from __future__ import annotations

import functools

from lehr.data.digits import DigitsData
from lehr.losses import Supervised, cross_entropy, label_smoothing
from lehr.models.resnet import ResNetSettings
from lehr.optim import AdamW
from lehr.run.recipe import Evaluate, Recipe
from lehr.schedules import WarmupCosine
from lehr.training.methods import EMA, Mixup

__all__ = ["recipe"]


def recipe() -> Recipe:
    """Return the recipe."""
    return Recipe(
        model=ResNetSettings(width=16, blocks=1, drop_path=0.1),
        data=DigitsData(batch_size=64, val_batch_size=360),
        objective=Supervised(loss=functools.partial(label_smoothing, smoothing=0.1), val_loss=cross_entropy),
        metrics=("accuracy",),
        optim=AdamW(lr=3e-3, weight_decay=0.05),
        schedule=WarmupCosine(warmup="5%"),
        methods=(Mixup(alpha=0.2), EMA(decay=0.99)),
        epochs=20,
        evaluate=Evaluate(every="1 epoch", monitor="ema_accuracy"),
    )
