"""Averages of weights and of predictions: EMA, SWA, ensembles."""

from lehr.averaging.ema import EMA, ema_decay
from lehr.averaging.held import HeldWeights
from lehr.averaging.norms import refresh_norms, tracking_norms
from lehr.averaging.swa import SWA

__all__ = ["EMA", "SWA", "HeldWeights", "ema_decay", "refresh_norms", "tracking_norms"]
