"""Distillation: a network of a few hundred parameters learns the digits from the labels and from a large network.

The teacher is a run of the recipe `digits`, trained in `runs/digits-teacher` where it is not there yet.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from lehr.data.digits import DigitsData
from lehr.losses import Distilled, cross_entropy
from lehr.models.convnet import ConvNetSettings
from lehr.optim import AdamW
from lehr.recipes.trained import trained
from lehr.run.opened import open_run
from lehr.run.recipe import Evaluate, Recipe
from lehr.schedules import WarmupCosine

__all__ = ["recipe", "teacher"]


def teacher() -> nn.Module:
    """Return the large network with the best weights of its run."""
    return open_run(trained("digits", Path("runs/digits-teacher"))).model


def recipe() -> Recipe:
    """Return the recipe."""
    return Recipe(
        model=ConvNetSettings(width=2, dropout=0.0),
        data=DigitsData(batch_size=64, val_batch_size=360),
        objective=Distilled(loss=cross_entropy, teacher=teacher, temperature=3.0, alpha=0.7),
        metrics=("accuracy",),
        optim=AdamW(lr=1e-2, weight_decay=0.0),
        schedule=WarmupCosine(warmup="5%"),
        epochs=40,
        evaluate=Evaluate(every="2 epochs", monitor="accuracy"),
    )
