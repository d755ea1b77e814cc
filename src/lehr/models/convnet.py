"""A small convolutional network for small pictures: stages of convolutions, pooled, and one linear layer.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

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
    """Channels of the first stage; each later stage has twice as many as the one before."""
    stages: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(2, 2), min_length=1)
    """Convolutions of each stage; between two stages, height and width are halved."""
    grid: int = Field(default=2, ge=1)
    """Height and width to which the last stage's maps are pooled before the linear layer."""
    pool: Literal["avg", "max"] = "avg"
    """How they are pooled."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Share of the features dropped before the linear layer in training."""

    def build(self, facts: Mapping[str, Any]) -> ConvNet:
        """Return the model for data with ``channels`` and ``num_classes`` among its facts."""
        return ConvNet(self, channels=int(facts["channels"]), num_classes=int(facts["num_classes"]))


class ConvNet(nn.Module):
    """Pictures (B, C, H, W) -> scores (B, K); H and W are halved between stages."""

    def __init__(self, settings: ConvNetSettings, *, channels: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, width = channels, settings.width
        for place, depth in enumerate(settings.stages):
            width = settings.width * 2**place
            layers += [nn.MaxPool2d(2)] if place else []
            layers += self._stage(before, width, depth)
            before = width
        pool = nn.AdaptiveAvgPool2d if settings.pool == "avg" else nn.AdaptiveMaxPool2d
        self.features = nn.Sequential(*layers, pool(settings.grid), nn.Flatten(), nn.Dropout(settings.dropout))
        self.head = nn.Linear(width * settings.grid**2, num_classes)

    @staticmethod
    def _stage(before: int, after: int, depth: int) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for channels in (before, *(after,) * (depth - 1)):
            layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        return layers

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the scores."""
        scores: Tensor = self.head(self.features(x_BCHW))
        return scores
