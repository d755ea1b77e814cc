"""A linear layer of two factors: what costs m n in a dense layer costs r (m + n)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.base.seeds import generator as generator_of
from lehr.lowrank.balance import Balance, balanced_pair
from lehr.lowrank.decomposition import Pair
from lehr.lowrank.spectrum import break_even

__all__ = ["LowRankLinear", "check_rank", "default_linear", "linear_of", "trainable"]


class LowRankLinear(nn.Module):
    """``y = (x V) U^T + b``: `nn.Linear` whose weight is the product ``U V^T`` of rank r, never formed.

    Spectral initialization: the weights that `nn.Linear` would begin with, truncated to rank r by an SVD, √S in both
    factors (Khodak et al. 2021, arXiv 2105.01029), and here scaled to the norm of those weights, so that the output
    keeps its size. They are drawn from ``generator``, or from the global one.

    Raises: `SettingError` for a rank at which the factors hold as many numbers as the matrix, or more; `from_pair` and
    `from_linear` take any rank.

    Shapes: x (..., in), U (out, r), V (in, r), y (..., out). Cost: 2 r (in + out) operations a row and pass.

    >>> layer = LowRankLinear(64, 64, 6, generator=torch.Generator().manual_seed(0))
    >>> layer, sum(p.numel() for p in layer.parameters())
    (LowRankLinear(in_features=64, out_features=64, rank=6, bias=True), 832)
    """

    U: nn.Parameter
    V: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        *,
        bias: bool = True,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_rank(rank, out_features, in_features)
        dense = default_linear(in_features, out_features, bias=bias, generator=generator)
        pair = balanced_pair(dense.weight.detach(), rank)
        self._hold(with_norm_of(dense.weight.detach(), pair), dense.bias)
        self.to(device=device, dtype=dtype)

    def _hold(self, pair: Pair, bias: Tensor | None) -> None:
        # an SVD gives columns in a row; fused optimizers go through parameter and state by memory
        self.U = nn.Parameter(pair.left.contiguous())
        self.V = nn.Parameter(pair.right.contiguous())
        self.register_parameter("bias", None if bias is None else as_parameter(bias))

    @classmethod
    def from_pair(cls, pair: Pair, bias: Tensor | None = None) -> LowRankLinear:
        """Return the layer with these factors, of any rank: ``left`` (out, r), ``right`` (in, r).

        A bias that is a parameter stays the same one, so that an optimizer goes on with it.

        >>> LowRankLinear.from_pair(Pair(torch.ones(3, 2), torch.ones(2, 2)))(torch.ones(1, 2))
        tensor([[4., 4., 4.]], grad_fn=<MmBackward0>)
        """
        if pair.left.ndim != 2 or pair.right.ndim != 2 or pair.left.shape[1] != pair.right.shape[1]:
            shapes = f"{tuple(pair.left.shape)} and {tuple(pair.right.shape)}"
            raise SettingError(f"factors of shapes {shapes}; they have to be (out, r) and (in, r)")
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._hold(pair, bias)
        return layer

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        rank: int,
        *,
        balance: Balance = "none",
        covariance: Tensor | None = None,
        keep_norm: bool = False,
    ) -> LowRankLinear:
        """Return the best approximation of a dense layer at a rank of 1..min(in, out), by `balanced_pair`.

        The bias is the dense layer's own parameter. At full rank the function is the same. ``keep_norm`` scales the
        factors so that their product has the Frobenius norm of the weight: for layers that have not been trained.

        >>> dense = nn.Linear(4, 3); x = torch.ones(1, 4)
        >>> torch.allclose(LowRankLinear.from_linear(dense, 3)(x), dense(x), atol=1e-5)
        True
        """
        weight = linear.weight.detach()
        pair = trainable(balanced_pair(weight, rank, balance=balance, covariance=covariance))
        pair = with_norm_of(weight, pair) if keep_norm else pair
        layer = cls.from_pair(Pair(pair.left.to(weight.dtype), pair.right.to(weight.dtype)), linear.bias)
        return layer.train(linear.training)

    @classmethod
    def blank(cls, linear: nn.Linear, *, rank: int) -> LowRankLinear:
        """Return a layer of the sizes of ``linear`` whose factors are zeros, for weights that are loaded into it."""
        weight = linear.weight
        pair = Pair(weight.new_zeros(linear.out_features, rank), weight.new_zeros(linear.in_features, rank))
        return cls.from_pair(pair, linear.bias).train(linear.training)

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
        return self.U @ self.V.mT

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output (..., out)."""
        return F.linear(x @ self.V, self.U, self.bias)

    def to_dense(self) -> nn.Linear:
        """Return the dense layer with the same function; the bias is the same parameter."""
        return linear_of(self.weight.detach(), self.bias).train(self.training)

    def describe(self) -> dict[str, Any]:
        """Return what `rebuilt` needs beside the sizes of the layer."""
        return {"rank": self.rank}

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, rank={self.rank}, bias={self.bias is not None}"


def check_rank(rank: int, m: int, n: int) -> None:
    """Refuse a rank at which two factors of an m x n matrix save nothing.

    >>> check_rank(8, 10, 20)
    Traceback (most recent call last):
    ...
    lehr.base.errors.SettingError: rank=8 for a 10x20 matrix, whose break-even is at m n/(m + n) = 6.7; use 1..6
    """
    limit = break_even(m, n)
    most = math.ceil(limit) - 1
    if not 1 <= rank <= most:
        allowed = f"use 1..{most}" if most else "keep it dense"
        raise SettingError(
            f"rank={rank} for a {m}x{n} matrix, whose break-even is at m n/(m + n) = {limit:.1f}; {allowed}"
        )


def default_linear(
    in_features: int, out_features: int, *, bias: bool = True, generator: torch.Generator | None = None
) -> nn.Linear:
    """Return an `nn.Linear` with its usual initial weights, U(-1/√in, 1/√in), drawn from ``generator``.

    >>> float(default_linear(4, 2).weight.detach().abs().max()) <= 0.5
    True
    """
    bound = 1 / math.sqrt(in_features)
    weight = torch.empty(out_features, in_features).uniform_(-bound, bound, generator=generator)
    return linear_of(weight, torch.empty(out_features).uniform_(-bound, bound, generator=generator) if bias else None)


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return the `nn.Linear` with these weights (out, in), without a draw; parameters stay the same ones.

    >>> linear_of(torch.ones(2, 3), None)
    Linear(in_features=3, out_features=2, bias=False)
    """
    out_features, in_features = weight.shape
    layer = nn.Linear(in_features, out_features, bias=bias is not None, device="meta")
    layer.weight = as_parameter(weight)
    if bias is not None:
        layer.bias = as_parameter(bias)
    return layer


def as_parameter(value: Tensor) -> nn.Parameter:
    """Return a tensor as a parameter; one that is a parameter already stays the same."""
    return value if isinstance(value, nn.Parameter) else nn.Parameter(value)


def with_norm_of(weight: Tensor, pair: Pair) -> Pair:
    """Return the factors, scaled alike, so that their product has the Frobenius norm of ``weight``.

    What a truncation takes from random weights would otherwise be missing from each layer's output. A product of zeros
    stays as it is.

    >>> pair = with_norm_of(2 * torch.eye(4), Pair(torch.ones(4, 1), torch.ones(4, 1)))
    >>> torch.linalg.matrix_norm(pair.left @ pair.right.T)
    tensor(4.)
    """
    norm = torch.linalg.matrix_norm(weight.double())
    left, right = pair.left.double(), pair.right.double()  # squares of squares leave the range of float32
    product = ((left.mT @ left) * (right.mT @ right)).sum().sqrt()
    scale = torch.where(product > 0, (norm / product).sqrt(), 1.0).to(pair.left)
    return Pair(pair.left * scale, pair.right * scale)


def trainable(pair: Pair) -> Pair:
    """Return two factors with the same product whose columns have equal norms on both sides and can all be trained.

    A direction that is zero in both factors, as an SVD of weights that start at zero gives it, has no gradient in
    either. Its column of the right factor is filled as LoRA's first factor is, with draws of a fixed seed, and the
    product stays the same.

    >>> pair = trainable(Pair(torch.zeros(3, 1), torch.zeros(2, 1)))
    >>> bool((pair.left == 0).all()), bool((pair.right == 0).any())
    (True, False)
    """
    left_norm, right_norm = (torch.linalg.vector_norm(factor, dim=0) for factor in pair)
    size = left_norm.sqrt() * right_norm.sqrt()
    # size² is the singular value; what rounding leaves of a zero is a few eps of the largest
    dead = size <= math.sqrt(10 * torch.finfo(size.dtype).eps) * size.max()
    n, r = pair.right.shape
    bound = 1 / math.sqrt(n)
    draws = torch.empty(n, r).uniform_(-bound, bound, generator=generator_of(0, "low rank", n, r)).to(pair.right)
    return Pair(
        torch.where(dead, 0.0, pair.left * (size / left_norm)),
        torch.where(dead, draws, pair.right * (size / right_norm)),
    )
