"""Truncated normal initialization, and GPT-2's smaller weights where branches join the residual stream."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import nn

from lehr.base.errors import SettingError
from lehr.base.settings import Settings
from lehr.layers.filling import Matrix, refuse_lazy
from lehr.layers.zero_init import modules_like

__all__ = ["TruncatedNormal", "scale_residual"]


class TruncatedNormal(Settings):
    """Weights and embeddings of one std whatever the width, drawn again beyond ``cut`` of it; by ``nn.init``.

    0.02 is right for widths around 1/0.02² = 2500 and usual for all. As everywhere, ``std`` is that before the cut: at
    2 the weights have 0.88 of it. BERT and vision Transformers cut; GPT-2 does not (``cut=inf`` is as good as 10).
    Sources: Radford et al. 2019; Devlin et al. 2018 (arXiv 1810.04805).

    >>> values = torch.empty(50, 50)
    >>> TruncatedNormal().fill(Matrix("weight", values, 50, 50)), bool(values.abs().max() <= 0.04)
    ('normal cut at 2 std, std 0.02', True)
    """

    std: float = Field(default=0.02, gt=0)
    """Standard deviation before the cut."""
    cut: float = Field(default=2.0, gt=0)
    """Largest absolute value, in `std`."""

    @property
    def embedding_std(self) -> float:
        """That of all weights."""
        return self.std

    def fill(self, matrix: Matrix, generator: torch.Generator | None = None) -> str:
        """Draw the weights and say how."""
        limit = self.cut * self.std
        nn.init.trunc_normal_(matrix.values, std=self.std, a=-limit, b=limit, generator=generator)
        return f"normal cut at {self.cut:g} std, std {self.std:g}"


@torch.no_grad()
def scale_residual(model: nn.Module, *ends: str) -> list[str]:
    """Divide the weights of the N layers that end a residual branch by √N, and return their names.

    N sums of equal variance then add up to that of one, whatever the depth. A Transformer has N = 2·depth. ``ends``
    are patterns for the layers' names. Source: Radford et al. 2019, section 2.3.

    A weight that several of these layers share is divided once.

    Raises: `SettingError` for a pattern that no layer matches, a module without a weight, or one without a shape yet.

    >>> scale_residual(nn.ModuleList(nn.Linear(2, 2) for _ in range(4)), "*1", "*3")
    ['1', '3']
    """
    refuse_lazy(model)
    last = modules_like(model, *ends)
    if not last:
        raise SettingError("scale_residual needs the names of the layers that end the branches: 'blocks.*.down'")
    weights: set[nn.Parameter] = set()
    for name, module in last.items():
        weight = module._parameters.get("weight")
        if weight is None:
            raise SettingError(f"{name} is a {type(module).__name__} without a weight; name a layer")
        weights.add(weight)
    for weight in weights:
        weight.div_(math.sqrt(len(last)))
    return list(last)
