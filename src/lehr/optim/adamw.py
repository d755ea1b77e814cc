"""AdamW: Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from pydantic import Field
from torch import nn

from lehr.base.settings import Settings
from lehr.optim.groups import decay_groups

__all__ = ["AdamW", "fused_is_available"]


def fused_is_available(parameters: Iterable[torch.Tensor]) -> bool:
    """Whether torch's fused kernel takes all these parameters: floating point, on a device that has the kernel.

    >>> fused_is_available([torch.zeros(2)]), fused_is_available([torch.zeros(2, dtype=torch.complex64)])
    (True, False)
    """
    return all(p.is_floating_point() and p.device.type in {"cpu", "cuda", "xpu", "mps"} for p in parameters)


class AdamW(Settings):
    """Settings of torch's AdamW; decay falls on matrices and kernels only, never on biases, norms or embeddings.

    ``theta -= lr * (m_hat / (sqrt(v_hat) + eps) + weight_decay * theta)``. Source: Loshchilov and Hutter 2019
    (arXiv 1711.05101). The fused kernel is used where there is one: half the time of a step on small models.

    >>> [len(g["params"]) for g in AdamW().build(nn.Linear(2, 2))[0].param_groups]
    [1, 1]
    """

    lr: float = Field(default=1e-3, gt=0)
    """The base rate, which the schedule multiplies."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the running first and second moment."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled decay, per unit of rate."""

    def build(self, model: nn.Module, names: Sequence[str] | None = None) -> list[torch.optim.Optimizer]:
        """Return the optimizer over the trainable parameters of ``model``, or over the named ones."""
        groups = decay_groups(model, self.weight_decay, names)
        if not groups:
            return []
        fused = fused_is_available(p for group in groups for p in group["params"])
        return [torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fused or None)]
