"""A small convolutional network for small pictures: two pairs of convolutions, pooled, and one linear layer.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from lehr.base.settings import Settings

__all__ = ["ConvNet", "ConvNetSettings"]


class ConvNetSettings(Settings):
    """The sizes of a `ConvNet`.

    >>> import torch
    >>> ConvNetSettings(width=4).build({"channels": 1, "num_classes": 10})(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    width: int = Field(default=32, ge=1)
    """Channels of the first pair of convolutions; the second pair has twice as many."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Share of the features dropped before the linear layer in training."""

    def build(self, facts: Mapping[str, Any]) -> ConvNet:
        """Return the model for data with ``channels`` and ``num_classes`` among its facts."""
        return ConvNet(self, channels=int(facts["channels"]), num_classes=int(facts["num_classes"]))


class ConvNet(nn.Module):
    """Pictures (B, C, H, W) -> scores (B, K); H and W are multiples of 4."""

    def __init__(self, settings: ConvNetSettings, *, channels: int, num_classes: int) -> None:
        super().__init__()
        width = settings.width
        self.features = nn.Sequential(
            *self._pair(channels, width),
            nn.MaxPool2d(2),
            *self._pair(width, 2 * width),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(settings.dropout),
        )
        self.head = nn.Linear(8 * width, num_classes)

    @staticmethod
    def _pair(before: int, after: int) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for channels in (before, after):
            layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        return layers

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the scores."""
        scores: Tensor = self.head(self.features(x_BCHW))
        return scores
