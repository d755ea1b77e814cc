"""The same loss in other units."""

from __future__ import annotations

import math

from lehr.metrics.metric import Metric

__all__ = ["BITS_PER_BYTE", "PERPLEXITY", "bits_per_byte", "perplexity"]


def perplexity(loss: float) -> float:
    """Return ``exp(loss)`` for a mean cross entropy in nats; infinite where that overflows.

    >>> round(perplexity(2.0), 1), perplexity(1e6), perplexity(math.nan)
    (7.4, inf, nan)
    """
    return math.inf if loss > 709 else math.exp(loss)


def bits_per_byte(loss: float) -> float:
    """Return ``loss / ln 2`` for a mean cross entropy in nats over bytes: what a compressor would need.

    As a metric it is divided by the bytes per token of the validation text, which is not 1 for characters.

    >>> round(bits_per_byte(math.log(256)), 3)
    8.0
    """
    return loss / math.log(2)


PERPLEXITY = Metric(name="perplexity", of="loss", compute=perplexity, goal="min")
BITS_PER_BYTE = Metric(name="bits_per_byte", of="loss", compute=bits_per_byte, goal="min", per="val_bytes_per_token")
