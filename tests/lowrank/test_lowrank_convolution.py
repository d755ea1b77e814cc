"""A convolution of two, against torch's convolution with the product's kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lehr.base.errors import SettingError
from lehr.base.seeds import generator
from lehr.lowrank import LowRankConv2d

SHAPES: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": (1, 5), "stride": (1, 2), "padding": (0, 2)},
    {"kernel_size": 3, "dilation": 2, "padding": "same"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    {"kernel_size": 1},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_full_rank_is_the_same_function_with_the_same_gradients(shape: dict[str, Any]) -> None:
    conv = nn.Conv2d(4, 6, **shape).double()
    rank = min(6, conv.weight[0].numel())
    layer = LowRankConv2d.from_conv(conv, rank)
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64, generator=generator(0, "x"))
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    assert torch.allclose(layer(one), conv(other), atol=1e-10)
    layer(one).square().sum().backward()
    conv(other).square().sum().backward()
    assert torch.allclose(one.grad, other.grad, atol=1e-8)
    assert torch.allclose(layer.to_dense()(x), conv(x), atol=1e-10)
    assert layer.to_dense().extra_repr() == conv.extra_repr()


def test_low_rank_is_unfolding_and_two_products() -> None:
    conv = nn.Conv2d(4, 6, 3, padding=1)
    layer = LowRankConv2d.from_conv(conv, 2)
    U, S, Vh = torch.linalg.svd(conv.weight.detach().flatten(1), full_matrices=False)
    left, right = U[:, :2] * S[:2].sqrt(), Vh[:2].T * S[:2].sqrt()
    x = torch.randn(3, 4, 5, 5, generator=generator(0, "x"))
    patches = F.unfold(x, 3, padding=1).mT  # (B, places, in kh kw)
    wanted = (patches @ right @ left.T).mT.reshape(3, 6, 5, 5) + conv.bias[:, None, None]
    assert torch.allclose(layer(x), wanted, atol=1e-5)
    assert sum(p.numel() for p in layer.parameters()) == 2 * (4 * 9 + 6) + 6
    assert (layer.in_channels, layer.out_channels, layer.rank) == (4, 6, 2)
    assert layer.expand.bias is conv.bias


def test_kernels_of_zeros_still_train() -> None:
    conv = nn.Conv2d(4, 6, 3, bias=False)
    nn.init.zeros_(conv.weight)
    layer = LowRankConv2d.from_conv(conv, 2)
    assert (layer.weight == 0).all()
    x = torch.randn(3, 4, 5, 5, generator=generator(0, "x"))
    (layer(x) - 1).square().sum().backward()
    assert layer.expand.weight.grad.abs().sum() > 0


def test_groups_and_ranks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SettingError, match="2 groups"):
        LowRankConv2d.from_conv(nn.Conv2d(4, 6, 3, groups=2), 2)
    with pytest.raises(SettingError, match=r"use 1\.\.6"):
        LowRankConv2d.from_conv(nn.Conv2d(4, 6, 3), 7)
