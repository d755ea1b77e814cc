"""Scikit-learn's bundled digits: 1,797 pictures of 8 x 8 pixels, found on every machine that has the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, model_validator

from lehr.base import seeds
from lehr.base.errors import DataError, SettingError
from lehr.base.optional import need
from lehr.data.data import Data, Splits

__all__ = ["DigitsData"]


def bundled_file() -> Path:
    """Return the file in scikit-learn's package; read as it is, since importing scikit-learn takes most of a second.

    >>> bundled_file().name
    'digits.csv.gz'
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        need("sklearn", extra="data", why="the digits")
    assert package is not None
    return Path(str(package.origin)).parent / "datasets" / "data" / "digits.csv.gz"


class DigitsData(Data):
    """The digits as (B, 1, 8, 8) pictures between -1 and 1 and labels 0 to 9; a fifth is held out."""

    digits: tuple[int, ...] = tuple(range(10))
    """Which of the ten digits to take; their labels are 0, 1, 2, ... in this order."""
    examples: int | None = Field(default=None, ge=1)
    """How many training pictures to take; all if not given."""
    val_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the pictures that is held out; which ones does not depend on the run's seed."""

    @model_validator(mode="after")
    def _check(self) -> DigitsData:
        if len(set(self.digits)) != len(self.digits) or len(self.digits) < 2 or not set(self.digits) <= set(range(10)):
            raise SettingError(f"digits={list(self.digits)}; give two or more different digits of 0 to 9")
        return self

    def open(self) -> Splits:
        """Load and split the pictures."""
        rows = torch.from_numpy(np.loadtxt(bundled_file(), delimiter=",", dtype=np.float32))
        pictures, labels = rows[:, :-1].view(-1, 1, 8, 8) / 8 - 1, rows[:, -1].long()
        place_of = torch.full((10,), -1)
        place_of[list(self.digits)] = torch.arange(len(self.digits))
        taken = place_of[labels] >= 0
        pictures, labels = pictures[taken], place_of[labels[taken]]
        order = torch.randperm(len(labels), generator=seeds.generator(0, "digits"))
        cut = int(len(labels) * self.val_share)
        if cut == 0:
            raise DataError(
                f"data.val_share={self.val_share:g} of {len(labels)} pictures is none; use at least "
                f"{1.1 / len(labels):.1g}"
            )
        held_out, training = order[:cut], order[cut:]
        if self.examples is not None and self.examples > len(training):
            raise DataError(f"data.examples={self.examples}, but there are {len(training)} training pictures")
        training = training[: self.examples]
        return Splits(
            train=(pictures[training], labels[training]),
            val=(pictures[held_out], labels[held_out]),
            facts={
                "channels": 1,
                "num_classes": len(self.digits),
                "train_samples": len(training),
                "val_samples": len(held_out),
            },
        )
