"""Orthogonal initialization: a layer that turns its input and does not stretch it."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from lehr.base.settings import Settings
from lehr.layers.filling import Matrix

__all__ = ["Orthogonal"]


class Orthogonal(Settings):
    """A random matrix with orthonormal rows, or columns where there are fewer, times ``gain``; by ``nn.init``.

    Every singular value is the gain, so a deep linear network neither fades nor explodes in any direction, while
    normal weights keep the size on average only. A kernel counts as the matrix (out, in x height x width) of each
    group; in a transposed convolution, of the taps that meet at one output. Drawn in float32 at least. Source: Saxe et
    al. 2013 (arXiv 1312.6120). Cost: a QR decomposition of each matrix.

    >>> values = torch.empty(2, 3)
    >>> Orthogonal(gain=2.0).fill(Matrix("weight", values, 3, 2))
    'orthogonal, gain 2'
    >>> torch.allclose(values @ values.T, 4 * torch.eye(2), atol=1e-5)
    True
    """

    embedding_std: ClassVar[float] = 1.0

    gain: float = Field(default=1.0, gt=0)
    """All singular values; √2 for relu."""

    def fill(self, matrix: Matrix, generator: torch.Generator | None = None) -> str:
        """Draw the weights and say how."""
        for part in matrix.maps or (matrix.values,):
            exact = torch.empty(part.shape, dtype=torch.promote_types(part.dtype, torch.float32), device=part.device)
            part.copy_(nn.init.orthogonal_(exact, self.gain, generator=generator))
        return f"orthogonal, gain {self.gain:g}"
