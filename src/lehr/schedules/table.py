"""The schedules that a recipe can name."""

from __future__ import annotations

from lehr.base.tables import Row, Table
from lehr.schedules.constant import Constant
from lehr.schedules.warmup_cosine import WarmupCosine
from lehr.schedules.warmup_linear import WarmupLinear

__all__ = ["SCHEDULES"]

SCHEDULES = Table(
    "schedule",
    [
        Row(
            name="constant",
            make=Constant,
            summary="the base rate throughout, after an optional linear warm-up",
        ),
        Row(name="warmup_cosine", make=WarmupCosine, summary="linear warm-up, then a cosine to the floor"),
        Row(
            name="warmup_linear",
            make=WarmupLinear,
            summary="linear warm-up, then a straight line to the floor",
        ),
    ],
)
