"""Data: sources, tokenizers, and loaders that know where they are and can be put back there."""

from lehr.data.data import Data, Splits
from lehr.data.opening import training_loader
from lehr.data.validation import validation_batches

__all__ = ["Data", "Splits", "training_loader", "validation_batches"]
