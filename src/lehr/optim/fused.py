"""Which of torch's implementations of an optimizer to ask for."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["fused_is_available", "implementation"]


def fused_is_available(parameters: Iterable[Tensor], kernel: str = "_fused_adamw_") -> bool:
    """Whether torch's fused ``kernel`` takes all these parameters: floating point, on a device that has the kernel.

    >>> fused_is_available([torch.zeros(2)]), fused_is_available([torch.zeros(2, dtype=torch.complex64)])
    (True, False)
    """
    return all(p.is_floating_point() and _has(kernel, p.device.type.upper()) for p in parameters)


def _has(kernel: str, device: str) -> bool:
    try:
        return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{kernel}", device))
    except RuntimeError:  # torch does not know such a device, or has no such kernel
        return False


def implementation(parameters: Iterable[Tensor], kernel: str | None) -> dict[str, bool]:
    """Return ``fused=True`` for torch's optimizer where there is a kernel, else ``foreach=True``.

    One kernel for all parameters, or one for each operation over all parameters, instead of several for each parameter.

    >>> implementation([torch.zeros(2)], "_fused_sgd_"), implementation([torch.zeros(2)], None)
    ({'fused': True}, {'foreach': True})
    """
    return {"fused": True} if kernel and fused_is_available(parameters, kernel) else {"foreach": True}
