"""Training on from a trained model: freezing, a new head, and which parts to train for which data."""

from lehr.transfer.freeze import freeze, unfreeze
from lehr.transfer.head import replace_head
from lehr.transfer.strategy import Strategy, strategy

__all__ = ["Strategy", "freeze", "replace_head", "strategy", "unfreeze"]
