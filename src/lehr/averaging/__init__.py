"""Averages of weights and of predictions: EMA, SWA, ensembles."""

from lehr.averaging.ema import EMA, ema_decay
from lehr.averaging.ensemble import Ensemble, combine, shares_of
from lehr.averaging.held import HeldWeights
from lehr.averaging.norms import refresh_norms, tracking_norms
from lehr.averaging.swa import SWA

__all__ = [
    "EMA",
    "SWA",
    "Ensemble",
    "HeldWeights",
    "combine",
    "ema_decay",
    "refresh_norms",
    "shares_of",
    "tracking_norms",
]
