"""Gradient noise that fades with the step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lehr.base import seeds
from lehr.base.errors import SettingError

__all__ = ["add_noise_", "noise_deviation"]


def noise_deviation(step: int, *, eta: float = 0.01, gamma: float = 0.55) -> float:
    """Return the standard deviation of the noise at update ``step`` (from 0): ``sqrt(eta / (1 + step)^gamma)``.

    Source: Neelakantan et al. 2015 (arXiv 1511.06807), with eta out of 0.01, 0.3 and 1.0 and gamma 0.55.

    >>> noise_deviation(0, eta=0.01), round(noise_deviation(99, eta=0.01, gamma=0.5), 4)
    (0.1, 0.0316)
    """
    if not eta > 0 or not gamma >= 0:
        raise SettingError(f"eta={eta}, gamma={gamma} of gradient noise: eta must be above 0, gamma 0 or more")
    return math.sqrt(eta / (1 + step) ** gamma)


def add_noise_(gradients: Mapping[str, Tensor], deviation: float, *, seed: int, step: int) -> None:
    """Add normal noise of this standard deviation to each gradient, in place.

    What a parameter gets follows from the seed, its name and the step alone: it is the same in every process, and does
    not depend on which other parameters have a gradient. No global generator is touched.

    >>> gradient = torch.zeros(2)
    >>> add_noise_({"weight": gradient}, 0.1, seed=0, step=5)
    >>> bool((gradient != 0).all())
    True
    """
    for name, gradient in gradients.items():
        draws = torch.Generator(gradient.device).manual_seed(seeds.address(seed, "gradient-noise", step, name))
        noise = torch.randn(gradient.shape, generator=draws, device=gradient.device, dtype=gradient.dtype)
        gradient.add_(noise, alpha=deviation)
