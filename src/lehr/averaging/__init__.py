"""Averages of weights and of predictions: EMA, SWA, ensembles."""

from lehr.averaging.ema import EMA, ema_decay
from lehr.averaging.held import HeldWeights

__all__ = ["EMA", "HeldWeights", "ema_decay"]
