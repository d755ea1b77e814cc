"""Small things that many parts do with tensors."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["in_full"]


def in_full(value: Tensor) -> Tensor:
    """Return a value of 16 bits in 32: sums leave fp16's range or bf16's digits, and small steps are rounded away.

    >>> in_full(torch.ones(1, dtype=torch.float16)).dtype, in_full(torch.ones(1, dtype=torch.float64)).dtype
    (torch.float32, torch.float64)
    """
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
