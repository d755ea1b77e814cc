"""What losses over classes share: rows of logits, and targets that are labels or probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from lehr.base.errors import DataError, SettingError
from lehr.base.tensors import in_full

__all__ = ["NEVER", "as_rows", "counted_rows", "kept_rows", "label_problem", "num_rows", "probability_problem"]

NEVER = -(2**62)
"""A label that no data has: torch ignores -100 unless it is told of another one."""


def as_rows(logits: Tensor, target: Tensor, ignore: int | None = None) -> tuple[Tensor, Tensor]:
    """Return logits (N, classes), of 32 bits at least, with labels (N,) or, for soft targets, probabilities of theirs.

    ``logits`` are (..., classes). ``target`` is (...) of integer labels, or (..., classes) of probabilities in a
    floating format, as mixup makes them. Soft targets have no label, so ``ignore`` is refused with them. Rows that are
    ignored come back as zeros, so that nothing in them, not even NaN, reaches a gradient.

    >>> rows, labels = as_rows(torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.long))
    >>> rows.shape, labels.shape
    (torch.Size([6, 5]), torch.Size([6]))
    """
    soft = target.is_floating_point()
    wanted = logits.shape if soft else logits.shape[:-1]
    if target.shape != wanted:
        raise DataError(
            f"the logits have shape {tuple(logits.shape)} and the target {tuple(target.shape)} of {target.dtype}; "
            f"integer labels must be {tuple(logits.shape[:-1])}, and probabilities {tuple(logits.shape)}"
        )
    if soft and ignore is not None:
        raise SettingError(
            f"ignore={ignore} was given with targets that are probabilities, of which none is that label; leave ignore "
            "out, or give class labels"
        )
    if logits.ndim != 2:
        logits = logits.reshape(-1, logits.shape[-1])
        target = target.reshape(logits.shape if soft else (-1,))
    counted = counted_rows(target, ignore)
    logits = kept_rows(in_full(logits), counted)
    return logits, target.to(logits.dtype) if soft else target.long()


def kept_rows(values: Tensor, counted: Tensor | None) -> Tensor:
    """Return ``values`` (..., classes) with zeros in the rows that do not count.

    >>> kept_rows(torch.tensor([[float("nan"), 1.0], [2.0, 3.0]]), torch.tensor([False, True]))
    tensor([[0., 0.],
            [2., 3.]])
    """
    if counted is None or _all_count(counted):
        return values
    return values.where(counted.unsqueeze(-1), 0)


def _all_count(counted: Tensor) -> bool:
    """Whether it is known, at no cost, that all rows count: a pass over logits of 50,000 classes is a third of a step.

    On accelerators the host would have to wait for the answer, and in compiled code the pass costs nothing.
    """
    return counted.device.type == "cpu" and not torch.compiler.is_compiling() and bool(counted.all())


def counted_rows(target: Tensor, ignore: int | None) -> Tensor | None:
    """Return a mask (N,) of the labels that count, or None where all rows do."""
    return None if ignore is None else target != ignore


def num_rows(target: Tensor, ignore: int | None) -> Tensor | int:
    """Return how many rows count."""
    return target.shape[0] if ignore is None else (target != ignore).sum()


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


def probability_problem(target: Tensor) -> tuple[str, list[int]] | None:
    """Say what is wrong with class probabilities (..., classes), and in which samples; None when they fit.

    >>> probability_problem(torch.tensor([[0.5, 0.5], [2.0, 1.0]]))
    ('class probabilities must be 0 or more and sum to 1; found [2.0, 1.0]', [1])
    """
    full = in_full(target)
    good = (full >= 0).all(dim=-1) & ((full.sum(dim=-1) - 1).abs() <= 1e-2)  # 16 bits keep two to three digits
    if bool(good.all()):
        return None
    samples = (~good).reshape(good.shape[0], -1).any(dim=1).nonzero()[:, 0].tolist() if good.ndim else []
    found = [round(v, 3) for v in full[~good][0].tolist()[:8]]
    return f"class probabilities must be 0 or more and sum to 1; found {found}", samples
