"""Share of targets whose class has the highest score."""

from __future__ import annotations

from torch import Tensor

from lehr.metrics.metric import Metric

__all__ = ["ACCURACY", "accuracy"]


def accuracy(logits: Tensor, target: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor | int]:
    """Return how many of ``target`` (...) are the argmax of ``logits`` (..., classes), and how many there are.

    ``counted`` (...) is true where a target counts; without it, all do.

    >>> import torch
    >>> right, count = accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    >>> int(right), count
    (1, 2)
    """
    right = logits.argmax(dim=-1) == target
    return (right.sum(), target.numel()) if counted is None else ((right & counted).sum(), counted.sum())


ACCURACY = Metric(name="accuracy", of="classes", compute=accuracy, goal="max")
