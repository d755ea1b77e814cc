"""LoRA: a dense layer that stays as it is, and a small pair of factors beside it that trains."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.lowrank.linear import linear_of

__all__ = ["LoRALinear"]


class LoRALinear(nn.Module):
    """``y = base(x) + (alpha / r) (drop(x) A^T) B^T``: a frozen dense layer and a trained pair of rank r.

    B begins at 0, so the function begins as the base's. ``alpha`` fixes the size of the change when r is varied.
    ``dropout`` is the share of the pair's input that is dropped in training. Source: Hu et al. 2021 (arXiv 2106.09685).

    Shapes: x (..., in), A (r, in), B (out, r), y (..., out). Cost: the dense layer's forward pass and its gradient of
    the input, and 2 r (in + out) operations a row and pass; what it saves is the state of the optimizer and the size of
    what is saved.

    >>> layer = LoRALinear.from_linear(nn.Linear(8, 4), 2, alpha=4)
    >>> [name for name, parameter in layer.named_parameters() if parameter.requires_grad]
    ['A', 'B']
    """

    def __init__(self, base: nn.Linear, A: Tensor, B: Tensor, *, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise SettingError(f"dropout={dropout:g} of a LoRALinear; use 0 up to, but without, 1")
        if not alpha > 0:
            raise SettingError(f"alpha={alpha:g} of a LoRALinear; use more than 0, such as the rank")
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(A)
        self.B = nn.Parameter(B)
        self.alpha = float(alpha)
        self.drop = nn.Dropout(dropout)
        self.train(base.training)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        rank: int,
        alpha: float | None = None,
        *,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> LoRALinear:
        """Return ``linear``, which is frozen from now on, with a pair beside it; ``alpha`` is the rank if not given.

        A is drawn from U(-1/√in, 1/√in), by ``generator`` or by the global one.

        Raises: `SettingError` for a rank outside 1..min(in, out).
        """
        most = min(linear.in_features, linear.out_features)
        if not 1 <= rank <= most:
            raise SettingError(f"rank={rank} beside a {linear.out_features}x{linear.in_features} matrix; use 1..{most}")
        layer = cls.blank(linear, rank=rank, alpha=float(rank) if alpha is None else alpha, dropout=dropout)
        bound = 1 / math.sqrt(linear.in_features)
        drawn = torch.empty(rank, linear.in_features).uniform_(-bound, bound, generator=generator)
        with torch.no_grad():
            layer.A.copy_(drawn)
        return layer

    @classmethod
    def blank(cls, linear: nn.Linear, *, rank: int, alpha: float, dropout: float) -> LoRALinear:
        """Return ``linear``, frozen, with a pair of zeros beside it, for weights that are loaded into it."""
        weight = linear.weight
        A, B = weight.new_zeros(rank, linear.in_features), weight.new_zeros(linear.out_features, rank)
        return cls(linear, A, B, alpha=alpha, dropout=dropout)

    @property
    def in_features(self) -> int:
        """Size of the last dimension of what comes in."""
        return self.base.in_features

    @property
    def out_features(self) -> int:
        """Size of the last dimension of what goes out."""
        return self.base.out_features

    @property
    def rank(self) -> int:
        """Rank of the change."""
        return self.A.shape[0]

    @property
    def weight(self) -> Tensor:
        """The base's weight and the pair's product (out, in), formed at each call."""
        return self.base.weight + self.alpha / self.rank * (self.B @ self.A)

    @property
    def bias(self) -> nn.Parameter | None:
        """The base's bias."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output (..., out)."""
        change: Tensor = (self.drop(x) @ self.A.mT) @ self.B.mT
        y: Tensor = self.base(x) + self.alpha / self.rank * change
        return y

    def to_dense(self) -> nn.Linear:
        """Return the dense layer that the base and the pair make together; it is not frozen."""
        bias = None if self.base.bias is None else self.base.bias.detach().clone()
        return linear_of(self.weight.detach(), bias).train(self.training)

    def describe(self) -> dict[str, Any]:
        """Return what `rebuilt` needs beside the sizes of the layer."""
        return {"rank": self.rank, "alpha": self.alpha, "dropout": self.drop.p}

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"rank={self.rank}, alpha={self.alpha:g}"
