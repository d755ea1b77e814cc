"""Methods: the techniques of the lower floors, bound to the events of a run. One file each, named in `METHODS`."""

from lehr.training.methods.ema import EMA
from lehr.training.methods.table import METHODS

__all__ = ["EMA", "METHODS"]
