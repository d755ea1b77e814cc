"""The methods that a recipe can name."""

from __future__ import annotations

from lehr.base.tables import Row, Table
from lehr.training.methods.ema import EMA

__all__ = ["METHODS"]

METHODS = Table(
    "method",
    [
        Row(name="ema", make=EMA, summary="exponential moving average of the weights, evaluated beside them"),
    ],
)
