"""He, or Kaiming, initialization: for relu and its family, which drop part of what they get."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, TypeAlias

import torch
from pydantic import Field, model_validator

from lehr.base.errors import SettingError
from lehr.base.settings import Settings
from lehr.layers.filling import Distribution, Matrix, draw

__all__ = ["He", "he_gain", "he_std"]

Rectifier: TypeAlias = Literal["relu", "leaky_relu", "gelu", "silu"]
SLOPE = 0.01
"""Of torch's LeakyReLU."""


def he_gain(activation: Rectifier, slope: float = SLOPE) -> float:
    """Return 1/√E[f(z)²] for standard normal z, the factor that makes up for what the activation f takes away.

    √2 for relu, √(2/(1 + slope²)) for leaky_relu. The same integral over gelu and silu gives 1.5335 and 1.6765; many
    implementations take relu's √2 for them.

    >>> round(he_gain("relu"), 4), round(he_gain("leaky_relu", 0.2), 4)
    (1.4142, 1.3868)
    """
    if activation == "leaky_relu":
        return math.sqrt(2 / (1 + slope**2))
    return {"relu": math.sqrt(2), "gelu": 1.5335304411956476, "silu": 1.6765324703311668}[activation]


def he_std(fan: float, activation: Rectifier = "relu", slope: float = SLOPE) -> float:
    """Return gain/√fan; fan_in keeps the size of activations, fan_out that of gradients.

    Source: He et al. 2015 (arXiv 1502.01852).

    >>> he_std(50)
    0.2
    """
    return he_gain(activation, slope) / math.sqrt(fan)


class He(Settings):
    """Weights by `he_std`.

    >>> He(slope=0.2)
    Traceback (most recent call last):
    ...
    lehr.base.errors.SettingError: He: slope=0.2 is of activation='leaky_relu' alone, and this is 'relu'
    """

    embedding_std: ClassVar[float] = 1.0

    activation: Rectifier = "relu"
    """What follows the layers."""
    slope: float = SLOPE
    """Slope below 0, where `activation` is `leaky_relu`."""
    mode: Literal["fan_in", "fan_out"] = "fan_in"
    """Whether activations or gradients keep their size; they differ where a layer widens or narrows."""
    distribution: Distribution = Field(default="normal")
    """Normal or uniform, of the same std."""

    @model_validator(mode="after")
    def _check(self) -> He:
        if self.activation != "leaky_relu" and self.slope != SLOPE:
            raise SettingError(
                f"slope={self.slope} is of activation='leaky_relu' alone, and this is {self.activation!r}"
            )
        return self

    def fill(self, matrix: Matrix, generator: torch.Generator | None = None) -> str:
        """Draw the weights and say how."""
        std = he_std(matrix.fan_in if self.mode == "fan_in" else matrix.fan_out, self.activation, self.slope)
        return f"he {draw(matrix.values, std, self.distribution, generator)}, {self.mode}"
