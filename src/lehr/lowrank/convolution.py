"""A convolution of two: to r channels with the kernel's size, then 1x1 to the channels wanted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.lowrank.balance import balanced_pair
from lehr.lowrank.linear import as_parameter, trainable

__all__ = ["LowRankConv2d"]


class LowRankConv2d(nn.Module):
    """``y = expand(reduce(x))``: the unfolded kernel (out, in kh kw) is the product of the two layers' kernels.

    ``reduce`` has the stride, the padding and the dilation, ``expand`` is 1x1 and has the bias. The same function as a
    linear layer of two factors on unfolded patches, without the memory of the patches.

    Shapes: (B, in, H, W) -> (B, out, H', W'). Cost: r (in kh kw + out) multiplications a place.

    >>> layer = LowRankConv2d.from_conv(nn.Conv2d(8, 16, 3, padding=1), 4)
    >>> layer(torch.zeros(1, 8, 5, 5)).shape, layer.rank
    (torch.Size([1, 16, 5, 5]), 4)
    """

    def __init__(self, reduce: nn.Conv2d, expand: nn.Conv2d) -> None:
        super().__init__()
        self.reduce = reduce
        self.expand = expand

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, rank: int) -> LowRankConv2d:
        """Return the best approximation of a convolution at a rank of 1..min(out, in kh kw), by `balanced_pair`.

        The bias is the convolution's own parameter. At full rank the function is the same.

        Raises: `SettingError` for groups, each of which has a matrix of its own, and for a rank that does not fit.
        """
        layer = cls.blank(conv, rank=rank)
        left, right = trainable(balanced_pair(conv.weight.detach().flatten(1), rank))
        with torch.no_grad():
            layer.expand.weight.copy_(left[:, :, None, None])
            layer.reduce.weight.copy_(right.mT.reshape_as(layer.reduce.weight))
        return layer

    @classmethod
    def blank(cls, conv: nn.Conv2d, *, rank: int) -> LowRankConv2d:
        """Return a layer of the sizes of ``conv`` whose kernels are zeros, for weights that are loaded into it."""
        if conv.groups != 1:
            raise SettingError(f"a convolution in {conv.groups} groups is as many matrices; leave it dense")
        reduce = _like(conv, conv.weight.new_zeros(rank, *conv.weight.shape[1:]), None)
        expand = nn.Conv2d(rank, conv.out_channels, 1, bias=conv.bias is not None, device="meta")
        expand.weight = nn.Parameter(conv.weight.new_zeros(conv.out_channels, rank, 1, 1))
        expand.bias = conv.bias
        return cls(reduce, expand).train(conv.training)

    @property
    def in_channels(self) -> int:
        """Channels of what comes in."""
        return self.reduce.in_channels

    @property
    def out_channels(self) -> int:
        """Channels of what goes out."""
        return self.expand.out_channels

    @property
    def rank(self) -> int:
        """Channels between the two."""
        return self.reduce.out_channels

    @property
    def weight(self) -> Tensor:
        """The dense kernel (out, in, kh, kw), formed at each call."""
        kernel = self.expand.weight.flatten(1) @ self.reduce.weight.flatten(1)
        return kernel.view(self.out_channels, *self.reduce.weight.shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output (B, out, H', W')."""
        y: Tensor = self.expand(self.reduce(x))
        return y

    def to_dense(self) -> nn.Conv2d:
        """Return the convolution with the same function; the bias is the same parameter."""
        return _like(self.reduce, self.weight.detach(), self.expand.bias).train(self.training)

    def describe(self) -> dict[str, Any]:
        """Return what `rebuilt` needs beside the sizes of the layer."""
        return {"rank": self.rank}


def _like(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Return a convolution with these weights that goes over the image as ``conv`` does; parameters stay the same."""
    made = nn.Conv2d(
        conv.in_channels,
        len(weight),
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        bias=bias is not None,
        padding_mode=conv.padding_mode,
        device="meta",
    )
    made.weight = as_parameter(weight)
    made.bias = None if bias is None else as_parameter(bias)
    return made
