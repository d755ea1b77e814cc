"""Methods: the techniques of the lower floors, bound to the events of a run. One file each, named in `METHODS`."""

from lehr.training.methods.cutmix import CutMix
from lehr.training.methods.ema import EMA
from lehr.training.methods.mixup import Mixup
from lehr.training.methods.swa import SWA
from lehr.training.methods.table import METHODS

__all__ = ["EMA", "METHODS", "SWA", "CutMix", "Mixup"]
