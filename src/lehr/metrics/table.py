"""The metrics that a recipe can name."""

from __future__ import annotations

from lehr.base.tables import Row, Table
from lehr.metrics.accuracy import ACCURACY
from lehr.metrics.loss_views import BITS_PER_BYTE, PERPLEXITY

__all__ = ["METRICS"]

METRICS = Table(
    "metric",
    [
        Row(
            name="accuracy",
            make=lambda: ACCURACY,
            summary="share of targets whose class has the highest score",
        ),
        Row(name="perplexity", make=lambda: PERPLEXITY, summary="exp of the mean cross entropy"),
        Row(name="bits_per_byte", make=lambda: BITS_PER_BYTE, summary="mean cross entropy over bytes, in bits"),
    ],
)
