"""Formats of 16 bits for the products of the forward and backward pass, by autocast."""

from __future__ import annotations

from collections.abc import Sequence

from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["BF16", "FP16"]

VOLTA = (7, 0)
"""The first CUDA devices with fast products in fp16."""


def _bf16(setup: Setup) -> Sequence[Settings]:
    if setup.precision == "bf16":
        raise NotHere("the run computes in bf16 already")
    return [("precision=bf16",)]


def _fp16(setup: Setup) -> Sequence[Settings]:
    if setup.precision == "fp16":
        raise NotHere("the run computes in fp16 already")
    if setup.device != "cuda":
        raise NotHere("fp16 is fast on CUDA devices; elsewhere bf16 has its size and needs no scaler")
    if setup.capability < VOLTA:
        raise NotHere(f"the device has capability {_dotted(setup.capability)}; fast products in fp16 begin at 7.0")
    if setup.step == "whole":
        raise NotHere("the whole step does not take fp16's scaler")
    return [("precision=fp16",)]


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


BF16 = Lever(
    name="bf16",
    summary="products in bfloat16, by autocast; weights stay float32",
    shortens=("forward", "backward"),
    options=_bf16,
    changes="rounding",
)
FP16 = Lever(
    name="fp16",
    summary="products in float16, by autocast with a gradient scaler; weights stay float32",
    shortens=("forward", "backward"),
    options=_fp16,
    changes="rounding",
    untested="everywhere: it needs a CUDA device",
)
