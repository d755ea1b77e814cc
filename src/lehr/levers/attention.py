"""Which of its kernels torch's attention takes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal

from torch.nn.attention import SDPBackend, sdpa_kernel

from lehr.base.errors import SettingError
from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["ATTENTION", "Backend", "attention"]

Backend = Literal["auto", "math", "flash", "efficient", "cudnn"]
_KERNELS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


def attention(backend: Backend) -> AbstractContextManager[object]:
    """Let `scaled_dot_product_attention` take one kernel within the block, and plain products where that cannot be.

    It is torch's `sdpa_kernel`, with names for its kernels; "auto" leaves the choice to torch.

    >>> import torch
    >>> with attention("math"):
    ...     torch.backends.cuda.flash_sdp_enabled()
    False
    """
    if backend == "auto":
        return contextlib.nullcontext()
    if backend not in _KERNELS:
        raise SettingError(f"attention={backend!r} is no kernel; use auto, {', '.join(_KERNELS)}")
    kernels: AbstractContextManager[object] = sdpa_kernel([_KERNELS[backend], SDPBackend.MATH])
    return kernels


def _options(setup: Setup) -> Sequence[Settings]:
    if not setup.attends:
        raise NotHere("the model does not call torch's attention")
    kernels = ("math",) if setup.device == "cpu" else ("flash", "efficient", "cudnn", "math")
    return [(f"attention={kernel}",) for kernel in kernels if kernel != setup.attention]


ATTENTION = Lever(
    name="attention",
    summary="another kernel for attention than torch chooses",
    shortens=("forward", "backward"),
    options=_options,
    changes="noise",
)
