"""The methods that a recipe can name."""

from __future__ import annotations

from lehr.base.tables import Row, Table
from lehr.training.methods.cutmix import CutMix
from lehr.training.methods.ema import EMA
from lehr.training.methods.mixup import Mixup
from lehr.training.methods.swa import SWA

__all__ = ["METHODS"]

METHODS = Table(
    "method",
    [
        Row(name="ema", make=EMA, summary="exponential moving average of the weights, evaluated beside them"),
        Row(name="swa", make=SWA, summary="equal average of the weights late in the run, evaluated beside them"),
        Row(name="mixup", make=Mixup, summary="weighted sums of two samples and of their labels"),
        Row(name="cutmix", make=CutMix, summary="a box of another picture in each, and its label by area"),
    ],
)
