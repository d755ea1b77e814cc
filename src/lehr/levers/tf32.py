"""TensorFloat-32: products of float32 numbers with 10 bits of mantissa, on NVIDIA devices from Ampere on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["TF32", "tf32"]

AMPERE = (8, 0)


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """Let products and convolutions of float32 tensors on CUDA devices be made in TF32 within the block.

    >>> with tf32():
    ...     torch.backends.cuda.matmul.allow_tf32
    True
    """
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]  # torch refuses a mix of these and its newer switches
    for backend in backends:
        backend.allow_tf32 = True
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def _options(setup: Setup) -> Sequence[Settings]:
    if setup.device != "cuda" or setup.capability < AMPERE:
        raise NotHere("TF32 is a format of NVIDIA's processors from Ampere (capability 8.0) on")
    if setup.precision != "fp32":
        raise NotHere(f"the run computes in {setup.precision} already, which is smaller")
    return [("precision=tf32",)]


TF32 = Lever(
    name="tf32",
    summary="products of float32 with 10 bits of mantissa",
    shortens=("forward", "backward"),
    options=_options,
    changes="rounding",
    untested="everywhere: it needs a CUDA device",
)
