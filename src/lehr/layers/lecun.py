"""LeCun initialization: for selu, and for layers that no activation follows."""

from __future__ import annotations

import math
from typing import ClassVar

import torch

from lehr.base.settings import Settings
from lehr.layers.filling import Distribution, Matrix, draw

__all__ = ["LeCun", "lecun_std"]


def lecun_std(fan_in: float) -> float:
    """Return 1/√fan_in: a linear layer's outputs have the variance of its inputs.

    Selu's constants make mean 0 and variance 1 a fixed point under these weights. Sources: LeCun et al. 1998,
    "Efficient BackProp"; Klambauer et al. 2017 (arXiv 1706.02515).

    >>> lecun_std(25)
    0.2
    """
    return 1 / math.sqrt(fan_in)


class LeCun(Settings):
    """Weights by `lecun_std`.

    >>> LeCun().distribution
    'normal'
    """

    embedding_std: ClassVar[float] = 1.0

    distribution: Distribution = "normal"
    """Normal or uniform, of the same std."""

    def fill(self, matrix: Matrix, generator: torch.Generator | None = None) -> str:
        """Draw the weights and say how."""
        return f"lecun {draw(matrix.values, lecun_std(matrix.fan_in), self.distribution, generator)}"
