"""Normalization by name, for models that leave it open. All are torch's modules but RMS norm over pictures.

They differ in what the mean and the variance are taken over. For x of shape (B, C, H, W), with C the channels:

    batch       B, H, W      one mean per channel; in evaluation the running mean of training
    layer       C, H, W      one per sample
    group       C/G, H, W    one per sample and group of channels
    instance    H, W         one per sample and channel
    rms         C, H, W      one root mean square per sample, no mean taken off

Each ends with a gain and, but for RMS norm, a bias for each channel: y = γ(x − μ)/√(σ² + ε) + β.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.base.tables import Row, Table

__all__ = ["NORMS", "SampleRMSNorm", "check_groups", "norm"]

_BATCH = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class SampleRMSNorm(nn.Module):
    """RMS norm of each sample over channels and places of (B, C, ...), with a gain per channel.

    y = γ·x/√(mean(x²) + ε). Source: Zhang and Sennrich 2019 (arXiv 1910.07467); for features in the last dimension
    take ``nn.RMSNorm``, which this calls. Its ε is also torch's: that of the number format.

    >>> SampleRMSNorm(2)(torch.tensor([[[1.0], [7.0]]])).detach().flatten()  # the root mean square is 5
    tensor([0.2000, 1.4000])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized samples."""
        return F.rms_norm(x, x.shape[1:]) * self.weight.view(-1, *[1] * (x.ndim - 2))

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return str(len(self.weight))


def check_groups(channels: int, groups: int) -> int:
    """Return the number of groups, and refuse one that does not divide the channels.

    >>> check_groups(16, 32)
    Traceback (most recent call last):
    ...
    lehr.base.errors.SettingError: groups=32 does not divide 16 channels; use one of 1, 2, 4, 8, 16
    """
    if groups < 1 or channels % groups:
        fitting = ", ".join(str(n) for n in range(1, channels + 1) if channels % n == 0)
        raise SettingError(f"groups={groups} does not divide {channels} channels; use one of {fitting}")
    return groups


def _batch(channels: int, groups: int, spatial: int) -> nn.Module:
    return _BATCH[spatial](channels)


def _layer(channels: int, groups: int, spatial: int) -> nn.Module:
    return nn.GroupNorm(1, channels) if spatial else nn.LayerNorm(channels)  # one group is the whole sample


def _group(channels: int, groups: int, spatial: int) -> nn.Module:
    return nn.GroupNorm(check_groups(channels, groups), channels)


def _instance(channels: int, groups: int, spatial: int) -> nn.Module:
    if not spatial:
        raise SettingError("instance norm is over the places of a channel, and spatial=0 has none; use layer norm")
    return _INSTANCE[spatial](channels, affine=True)


def _rms(channels: int, groups: int, spatial: int) -> nn.Module:
    return SampleRMSNorm(channels) if spatial else nn.RMSNorm(channels)


NORMS = Table(
    "norm",
    [
        Row(name="batch", make=_batch, summary="over the batch, per channel; convolutions with batches of 16 and more"),
        Row(name="layer", make=_layer, summary="over all features of a sample; Transformers, recurrent networks"),
        Row(name="group", make=_group, summary="over groups of a sample's channels; convolutions with small batches"),
        Row(name="instance", make=_instance, summary="over each channel of each sample; pictures' styles"),
        Row(name="rms", make=_rms, summary="layer norm without mean and bias; large Transformers"),
    ],
)


def norm(kind: str, channels: int, *, groups: int = 32, spatial: int = 2) -> nn.Module:
    """Return the norm of that name for (B, channels, ...) with ``spatial`` dimensions after the channels.

    ``spatial=0`` has the features last: (B, C), and for ``layer`` and ``rms`` also (B, T, C). ``groups`` is of
    ``group`` alone; 32 is its source's. Sources: Ioffe and Szegedy 2015 (arXiv 1502.03167), Ba et al. 2016
    (1607.06450), Wu and He 2018 (1803.08494), Ulyanov et al. 2016 (1607.08022), Zhang and Sennrich 2019 (1910.07467).

    Raises: `SettingError` for an unknown kind, groups that do not divide the channels, or no places to norm over.

    >>> norm("group", 64).num_groups
    32
    """
    make: Callable[[int, int, int], nn.Module] = NORMS[kind].make
    if spatial not in _BATCH or channels < 1:
        raise SettingError(f"norm for channels={channels}, spatial={spatial}; use channels >= 1 and spatial 0, 1, 2, 3")
    return make(channels, groups, spatial)
