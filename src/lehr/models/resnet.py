"""A small residual network for pictures of 16 pixels and more: three stages, halving the size between them.

Source: He et al. 2015 (arXiv 1512.03385), the basic block of `layers/residual.py`; the branch of each block begins at
zero (Goyal et al. 2017, arXiv 1706.02677).

Shapes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.base.settings import Settings
from lehr.layers.drop_path import depth_rates
from lehr.layers.norms import check_groups, norm
from lehr.layers.residual import Order, ResidualBlock
from lehr.layers.zero_init import zero_init_residual

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
    order: Order = "conv-norm-act"
    """Where the norms stand; `norm-act-conv` is pre-activation."""
    norm: Literal["batch", "layer", "group", "instance", "rms"] = "batch"
    """What is normalized: see `layers/norms.py`."""
    groups: int = Field(default=8, ge=1)
    """Groups of channels, where `norm` is `group`; a divisor of `width`."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Rate at which a sample leaves out the last block; earlier blocks have less, down to their share of the depth."""

    @model_validator(mode="after")
    def _check(self) -> ResNetSettings:
        if self.norm == "group":
            check_groups(self.width, self.groups)
        elif self.groups != type(self).model_fields["groups"].default:
            raise SettingError(f"groups={self.groups} with norm={self.norm!r}; groups are of norm='group' alone")
        return self

    def build(self, facts: Mapping[str, Any]) -> ResNet:
        """Return the model for data with ``channels`` and ``num_classes`` among its facts."""
        return ResNet(self, channels=int(facts["channels"]), num_classes=int(facts["num_classes"]))


class ResNet(nn.Module):
    """Pictures (B, C, H, W) -> scores (B, K)."""

    def __init__(self, settings: ResNetSettings, *, channels: int, num_classes: int) -> None:
        super().__init__()
        width, order = settings.width, settings.order
        make_norm = functools.partial(norm, settings.norm, groups=settings.groups)
        stem = {
            "conv": nn.Conv2d(channels, width, 3, padding=1, bias=False),
            "norm": make_norm(width),
            "act": nn.ReLU(),
        }
        places = ["conv"] if order == "norm-act-conv" else order.split("-")
        self.stem = nn.Sequential(*(stem[place] for place in places))
        stages: list[nn.Module] = []
        rates = iter(depth_rates(settings.drop_path, 3 * settings.blocks))
        before = width
        for stage in range(3):
            after = width * 2**stage
            for place in range(settings.blocks):
                stride = 2 if stage and not place else 1
                stages.append(ResidualBlock(before, after, stride, order=order, norm=make_norm, drop_path=next(rates)))
                before = after
        self.stages = nn.Sequential(*stages)
        # the sums of pre-activation blocks have been through no norm yet
        self.end = nn.Sequential(make_norm(before), nn.ReLU()) if order == "norm-act-conv" else nn.Identity()
        self.head = nn.Linear(before, num_classes)
        zero_init_residual(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the scores."""
        features = self.end(self.stages(self.stem(x_BCHW))).mean(dim=(2, 3))
        scores: Tensor = self.head(features)
        return scores
