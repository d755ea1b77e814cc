"""Mixup of each training batch with itself."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from lehr import augment
from lehr.base.protocols import Method, RunContext
from lehr.base.settings import Settings
from lehr.training.methods.mixing import mixing

__all__ = ["Mixup"]


class Mixup(Settings):
    """Settings of `lehr.augment.mixup`; evaluations are on the data as it is. Source: arXiv 1710.09412."""

    alpha: float = Field(default=0.2, gt=0)
    """Both parameters of the Beta distribution of shares; a larger one mixes more."""
    probability: float = Field(default=1.0, gt=0, le=1)
    """Share of the batches that are mixed."""
    classes: int | None = Field(default=None, ge=2)
    """Number of classes, where the data does not tell it."""

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""

        def mix(x: Tensor, y: Tensor, generator: torch.Generator, num_classes: int) -> tuple[Tensor, Tensor]:
            return augment.mixup(x, y, alpha=self.alpha, generator=generator, num_classes=num_classes)

        return mixing("mixup", mix, self, context)
