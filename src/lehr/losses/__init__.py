"""Objectives return a sum and a count, never a mean: accumulation, ragged batches and masks are then exact."""

from lehr.losses.cross_entropy import cross_entropy
from lehr.losses.objective import Objective, Supervised, as_objective

__all__ = ["Objective", "Supervised", "as_objective", "cross_entropy"]
