"""Which of its kernels torch's attention takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from lehr.base.errors import SettingError
from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["ATTENTION", "Backend", "attention"]

Backend = Literal["auto", "math", "flash", "efficient", "cudnn"]
_SWITCHES = {"math": "math_sdp", "flash": "flash_sdp", "efficient": "mem_efficient_sdp", "cudnn": "cudnn_sdp"}


@contextlib.contextmanager
def attention(backend: Backend) -> Iterator[None]:
    """Let `scaled_dot_product_attention` take one kernel only within the block, and plain products where it cannot.

    "auto" leaves the choice to torch. Unlike `torch.nn.attention.sdpa_kernel`, it holds for the backward pass's
    recomputation as well, wherever the block that it is made in was opened.

    >>> with attention("math"):
    ...     torch.backends.cuda.flash_sdp_enabled()
    False
    """
    if backend == "auto":
        yield
        return
    if backend not in _SWITCHES:
        raise SettingError(f"attention={backend!r} is no kernel; use auto, {', '.join(_SWITCHES)}")
    switches = torch.backends.cuda  # the name is older than the switches' use on a CPU
    before = {switch: getattr(switches, f"{switch}_enabled")() for switch in _SWITCHES.values()}
    try:
        for name, switch in _SWITCHES.items():
            getattr(switches, f"enable_{switch}")(name in (backend, "math"))
        yield
    finally:
        for switch, enabled in before.items():
            getattr(switches, f"enable_{switch}")(enabled)


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
