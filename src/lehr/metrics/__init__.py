"""What is reported: metrics as sums and counts, functions of the loss, and what compressors reach on the same bytes."""

from lehr.metrics.accuracy import accuracy
from lehr.metrics.loss_views import bits_per_byte, perplexity
from lehr.metrics.metric import Metric
from lehr.metrics.table import METRICS

__all__ = ["METRICS", "Metric", "accuracy", "bits_per_byte", "perplexity"]
