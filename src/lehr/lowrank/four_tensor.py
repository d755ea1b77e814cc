"""The guide's low-rank layer of four tensors, with a bias and an initialization that keeps the scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lehr.lowrank.balance import Balance
from lehr.lowrank.decomposition import Pair
from lehr.lowrank.linear import LowRankLinear, as_parameter

__all__ = ["FourTensorLinear"]


class FourTensorLinear(nn.Module):
    """``y = D * (((x V) * S) U^T) + b``, the weight diag(D) U diag(S) V^T: singular values, and a gain for each output.

    Anything that S and D express the factors can hold, and they cost two more products over the activations: `folded`
    moves them there. ``layer`` gives the beginning: U and V with columns of length 1, S of the lengths, D = 1.

    Shapes: x (..., in), U (out, r), S (r,), V (in, r), D (out,), y (..., out).

    >>> layer = FourTensorLinear(LowRankLinear(64, 64, 6, generator=torch.Generator().manual_seed(0)))
    >>> x = torch.ones(1, 64)
    >>> layer, torch.allclose(layer(x), layer.folded()(x), atol=1e-5)
    (FourTensorLinear(in_features=64, out_features=64, rank=6, bias=True), True)
    """

    U: nn.Parameter
    S: nn.Parameter
    V: nn.Parameter
    D: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, layer: LowRankLinear) -> None:
        super().__init__()
        left, right = layer.U.detach(), layer.V.detach()
        lengths = [_lengths(left), _lengths(right)]
        self.U = nn.Parameter(left / lengths[0])
        self.S = nn.Parameter(lengths[0] * lengths[1])
        self.V = nn.Parameter(right / lengths[1])
        self.D = nn.Parameter(left.new_ones(len(left)))
        self.register_parameter("bias", None if layer.bias is None else as_parameter(layer.bias))
        self.train(layer.training)

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, rank: int, *, balance: Balance = "none", covariance: Tensor | None = None
    ) -> FourTensorLinear:
        """Return the best approximation of a dense layer, as `LowRankLinear.from_linear` finds it."""
        return cls(LowRankLinear.from_linear(linear, rank, balance=balance, covariance=covariance))

    @classmethod
    def blank(cls, linear: nn.Linear, *, rank: int) -> FourTensorLinear:
        """Return a layer of the sizes of ``linear`` whose factors are zeros, for weights that are loaded into it."""
        return cls(LowRankLinear.blank(linear, rank=rank))

    @property
    def in_features(self) -> int:
        """Size of the last dimension of what comes in."""
        return self.V.shape[0]

    @property
    def out_features(self) -> int:
        """Size of the last dimension of what goes out."""
        return self.U.shape[0]

    @property
    def rank(self) -> int:
        """Columns of the factors."""
        return self.U.shape[1]

    @property
    def weight(self) -> Tensor:
        """The dense product (out, in), formed at each call; torch's Transformer layers read it in evaluation."""
        return (self.D[:, None] * self.U * self.S) @ self.V.mT

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output (..., out)."""
        y: Tensor = self.D * (((x @ self.V) * self.S) @ self.U.mT)
        return y if self.bias is None else y + self.bias

    @torch.no_grad()
    def folded(self) -> LowRankLinear:
        """Return the layer of two factors with the same function, |S| split evenly; the bias is the same parameter."""
        root = self.S.abs().sqrt()
        pair = Pair(self.D[:, None] * self.U * (root * self.S.sign()), self.V * root)
        return LowRankLinear.from_pair(pair, self.bias).train(self.training)

    def to_dense(self) -> nn.Linear:
        """Return the dense layer with the same function; the bias is the same parameter."""
        return self.folded().to_dense()

    def describe(self) -> dict[str, Any]:
        """Return what `rebuilt` needs beside the sizes of the layer."""
        return {"rank": self.rank}

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, rank={self.rank}, bias={self.bias is not None}"


def _lengths(factor: Tensor) -> Tensor:
    """Return the lengths of the columns, 1 for those of zeros."""
    lengths = torch.linalg.vector_norm(factor, dim=0)
    return torch.where(lengths == 0, 1.0, lengths)
