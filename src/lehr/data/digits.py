"""Scikit-learn's bundled digits: 1,797 pictures of 8 x 8 pixels, found on every machine that has the package."""

from __future__ import annotations

import torch
from pydantic import Field

from lehr.base import seeds
from lehr.base.errors import DataError
from lehr.base.optional import need
from lehr.data.data import Data, Splits

__all__ = ["DigitsData"]


class DigitsData(Data):
    """The digits as (B, 1, 8, 8) pictures between -1 and 1 and labels 0 to 9; a fifth is held out."""

    val_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the pictures that is held out; which ones does not depend on the run's seed."""

    def open(self) -> Splits:
        """Load and split the pictures."""
        bundled = need("sklearn.datasets", extra="data", why="the digits").load_digits()
        pictures = torch.tensor(bundled.images, dtype=torch.float32)[:, None] / 8 - 1
        labels = torch.tensor(bundled.target, dtype=torch.long)
        order = torch.randperm(len(labels), generator=seeds.generator(0, "digits"))
        cut = int(len(labels) * self.val_share)
        if cut == 0:
            raise DataError(
                f"data.val_share={self.val_share:g} of {len(labels)} pictures is none; use at least "
                f"{1.1 / len(labels):.1g}"
            )
        held_out, training = order[:cut], order[cut:]
        return Splits(
            train=(pictures[training], labels[training]),
            val=(pictures[held_out], labels[held_out]),
            facts={
                "channels": 1,
                "num_classes": 10,
                "train_samples": len(training),
                "val_samples": len(held_out),
            },
        )
