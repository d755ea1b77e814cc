"""Augmentations of whole batches: samples mixed with one another, and their labels with them."""

from lehr.augment.cutmix import cut_box, cutmix
from lehr.augment.mixup import mixup, mixup_pairs

__all__ = ["cut_box", "cutmix", "mixup", "mixup_pairs"]
