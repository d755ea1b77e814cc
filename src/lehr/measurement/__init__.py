"""What is faster, by how much and how surely: two recipes in turn, intervals, losses beside the times."""

from __future__ import annotations

from lehr.measurement.compare import Comparison, Side, compare, measure
from lehr.measurement.intervals import Interval, median_interval
from lehr.measurement.worker import ArmError, Source

__all__ = ["ArmError", "Comparison", "Interval", "Side", "Source", "compare", "measure", "median_interval"]
