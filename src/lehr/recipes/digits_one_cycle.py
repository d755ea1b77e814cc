"""Super-convergence: the digits in a few epochs of SGD, with one cycle of a high rate and the momentum against it."""

from __future__ import annotations

from lehr.data.digits import DigitsData
from lehr.losses import Supervised, cross_entropy
from lehr.models.resnet import ResNetSettings
from lehr.optim import SGD
from lehr.run.recipe import Evaluate, Recipe
from lehr.schedules import OneCycle

__all__ = ["recipe"]


def recipe() -> Recipe:
    """Return the recipe."""
    return Recipe(
        model=ResNetSettings(width=16, blocks=1),
        data=DigitsData(batch_size=64, val_batch_size=360),
        objective=Supervised(loss=cross_entropy),
        metrics=("accuracy",),
        optim=SGD(lr=0.4, momentum=0.95, nesterov=True, weight_decay=5e-4),
        schedule=OneCycle(cycle_momentum=(0.85, 0.95)),
        epochs=6,
        evaluate=Evaluate(every="1 epoch", monitor="accuracy"),
    )
