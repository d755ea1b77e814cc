"""Cross entropy over the last dimension, as a sum and a count."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cross_entropy", "in_full", "label_problem"]


def in_full(value: Tensor) -> Tensor:
    """Return a value of 16 bits in 32: a sum leaves fp16's range, or bf16's digits, where the mean does not.

    >>> in_full(torch.ones(1, dtype=torch.float16)).dtype, in_full(torch.ones(1, dtype=torch.float64)).dtype
    (torch.float32, torch.float64)
    """
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def cross_entropy(logits: Tensor, target: Tensor, *, ignore: int | None = None) -> tuple[Tensor, Tensor | int]:
    """Return ``sum_i -log softmax(logits_i)[target_i]`` in nats, and the number of targets that count.

    ``logits`` is (..., classes), ``target`` (...) of class indices; targets equal to ``ignore`` add nothing to either.

    >>> total, count = cross_entropy(torch.tensor([[0.7, 0.3], [0.7, 0.3]]).log(), torch.tensor([0, 0]))
    >>> round(float(total), 3), count
    (0.713, 2)
    """
    if logits.ndim != 2:
        logits, target = logits.reshape(-1, logits.shape[-1]), target.reshape(-1)
    logits = in_full(logits)
    if ignore is None:
        return F.cross_entropy(logits, target, reduction="sum"), target.numel()
    return F.cross_entropy(logits, target, reduction="sum", ignore_index=ignore), (target != ignore).sum()


def label_problem(
    logits: Tensor, target: Tensor, *, ignore: int | None = None, shape: tuple[int, ...] | None = None
) -> tuple[str, list[int]] | None:
    """Say what is wrong with class targets for these logits, and in which samples; None when they fit.

    ``shape`` is what the model's output is shown with, where its classes were not last.

    >>> label_problem(torch.zeros(2, 3), torch.tensor([0, 7]))
    ('labels must be 0 to 2, since the model gives 3 scores; found 7', [1])
    """
    if target.is_floating_point() or target.is_complex():
        return f"class labels must be integers, but they are {target.dtype}; use labels.long()", []
    if logits.shape[:-1] != target.shape:
        return (
            f"the model's output has shape {shape or tuple(logits.shape)} and the target {tuple(target.shape)}; "
            f"class scores need the target's shape and one dimension more, {(*target.shape, 'classes')}"
        ), []
    bad = (target < 0) | (target >= logits.shape[-1])
    if ignore is not None:
        bad &= target != ignore
    if not bool(bad.any()):
        return None
    samples = bad.reshape(bad.shape[0], -1).any(dim=1).nonzero()[:, 0].tolist()
    found = ", ".join(str(v) for v in torch.unique(target[bad])[:5].tolist())
    return (
        f"labels must be 0 to {logits.shape[-1] - 1}, since the model gives {logits.shape[-1]} scores; found {found}"
    ), samples
