"""AdamW whose two moments take a byte each."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from lehr.base.errors import SettingError
from lehr.base.optional import need
from lehr.optim.base import Grouped, parameters_of
from lehr.optim.fields import Betas

__all__ = ["AdamW8bit"]


class AdamW8bit(Grouped):
    """Settings of bitsandbytes' AdamW8bit: AdamW with both moments quantized in blocks of 256. Needs lehr[quant].

    A state of 2 bytes per weight instead of 8, and 4 for every block and moment. Source: Dettmers et al. 2022
    (arXiv 2110.02861).

    >>> AdamW8bit().lr
    0.001
    """

    lr: float = Field(default=1e-3, gt=0)
    """The base rate, which the schedule multiplies."""
    betas: Betas = (0.9, 0.999)
    """Decay rates of the running first and second moment."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled decay, per unit of rate."""
    min_size: int = Field(default=4096, ge=1)
    """Tensors with fewer weights keep moments in single precision."""

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return bitsandbytes' AdamW8bit over ``groups``."""
        bitsandbytes = need("bitsandbytes", extra="quant", why="optim=adamw_8bit")
        taken = (torch.float32, torch.float16, torch.bfloat16)
        refused = sorted({str(p.dtype) for p in parameters_of(groups) if p.dtype not in taken})
        if refused:
            raise SettingError(f"AdamW8bit takes float32, bfloat16 and float16, but the model has {', '.join(refused)}")
        made: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
            groups, lr=self.lr, betas=self.betas, eps=self.eps, min_8bit_size=self.min_size
        )
        return made
