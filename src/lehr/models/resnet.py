"""A small residual network for pictures of 16 pixels and more: three stages, halving the size between them.

Source: He et al. 2015 (arXiv 1512.03385), the basic block; the last batch norm of each block starts at gain 0, so that
a block begins as the identity (Goyal et al. 2017, arXiv 1706.02677).

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lehr.base.settings import Settings

__all__ = ["ResNet", "ResNetSettings"]


class ResNetSettings(Settings):
    """The sizes of a `ResNet`.

    >>> import torch
    >>> model = ResNetSettings(width=8, blocks=1).build({"channels": 3, "num_classes": 5})
    >>> model(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 5])
    """

    width: int = Field(default=16, ge=1)
    """Channels of the first stage; each later one has twice as many as the one before."""
    blocks: int = Field(default=2, ge=1)
    """Blocks per stage; 3 x 2 of them with the stem and the head are the usual ResNet-14."""

    def build(self, facts: Mapping[str, Any]) -> ResNet:
        """Return the model for data with ``channels`` and ``num_classes`` among its facts."""
        return ResNet(self, channels=int(facts["channels"]), num_classes=int(facts["num_classes"]))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        nn.init.zeros_(self.norm2.weight)
        same = before == after and stride == 1
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x_BCHW)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x_BCHW))


class ResNet(nn.Module):
    """Pictures (B, C, H, W) -> scores (B, K)."""

    def __init__(self, settings: ResNetSettings, *, channels: int, num_classes: int) -> None:
        super().__init__()
        width = settings.width
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        stages: list[nn.Module] = []
        before = width
        for stage in range(3):
            after = width * 2**stage
            for place in range(settings.blocks):
                stages.append(ResidualBlock(before, after, stride=2 if stage and not place else 1))
                before = after
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(before, num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the scores."""
        features = self.stages(self.stem(x_BCHW)).mean(dim=(2, 3))
        scores: Tensor = self.head(features)
        return scores
