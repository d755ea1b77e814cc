"""DropConnect: single weights are dropped, not what they are multiplied with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lehr.layers.dropout import check_rate, inverted_dropout

__all__ = ["DropConnectLinear", "drop_connect"]


def drop_connect(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    p: float,
    *,
    training: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return x (W ∘ M)ᵀ/(1 − p) + b, where M holds 0 at rate p and 1 otherwise; the expected value is x Wᵀ + b.

    One M for the whole batch. The source draws one for each sample, which costs samples × weights of memory, drops
    biases as well, and in evaluation samples from a normal distribution; here evaluation is the plain layer. Source:
    Wan et al. 2013, "Regularization of neural networks using DropConnect".

    >>> drop_connect(torch.ones(1, 2), torch.ones(3, 2), None, 0.5, training=False)
    tensor([[2., 2., 2.]])
    """
    return F.linear(x, inverted_dropout(weight, p, training=training, generator=generator), bias)


class DropConnectLinear(nn.Linear):
    """A linear layer with `drop_connect`; its parameters have the names and shapes of ``nn.Linear``'s.

    >>> DropConnectLinear(4, 2, p=0.5)
    DropConnectLinear(in_features=4, out_features=2, bias=True, p=0.5)
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, p: float = 0.5) -> None:
        super().__init__(in_features, out_features, bias)
        self.p = check_rate(p)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, in training with part of its weights dropped."""
        return drop_connect(x, self.weight, self.bias, self.p, training=self.training)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"{super().extra_repr()}, p={self.p}"
