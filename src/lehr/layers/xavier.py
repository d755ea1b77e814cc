"""Xavier, or Glorot, initialization: for layers whose activation is symmetric around 0, such as tanh."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field

from lehr.base.settings import Settings
from lehr.layers.filling import Distribution, Matrix, draw

__all__ = ["Xavier", "xavier_std"]


def xavier_std(fan_in: float, fan_out: float, gain: float = 1.0) -> float:
    """Return gain·√(2/(fan_in + fan_out)): between what keeps activations (1/fan_in) and gradients (1/fan_out).

    The uniform form is within ±√3 of it, which is ±√(6/(fan_in + fan_out)). Source: Glorot and Bengio 2010,
    "Understanding the difficulty of training deep feedforward neural networks".

    >>> xavier_std(100, 100)
    0.1
    """
    return gain * math.sqrt(2 / (fan_in + fan_out))


class Xavier(Settings):
    """Weights by `xavier_std`; for sigmoid and tanh, whose slope at 0 the formula takes to be constant.

    >>> Xavier(distribution="normal").gain
    1.0
    """

    embedding_std: ClassVar[float] = 1.0

    distribution: Distribution = "uniform"
    """Normal or uniform, of the same std; the source draws uniformly."""
    gain: float = Field(default=1.0, gt=0)
    """Factor on the std; 5/3 is usual for deep tanh networks, whose signals otherwise fade."""

    def fill(self, matrix: Matrix, generator: torch.Generator | None = None) -> str:
        """Draw the weights and say how."""
        std = xavier_std(matrix.fan_in, matrix.fan_out, self.gain)
        return f"xavier {draw(matrix.values, std, self.distribution, generator)}"
