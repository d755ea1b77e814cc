"""Gradual unfreezing: which blocks train at a step."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from torch import nn

from lehr.optim.frozen import frozen_norms

__all__ = ["train_from_depth", "unfrozen_depth"]


def unfrozen_depth(step: int, *, top: int, boundaries: Sequence[int]) -> int:
    """Return the lowest depth that trains after ``step`` updates: ``top`` at first, one less from each boundary on.

    ``top - |{b in boundaries: b <= step}|``, and 0 at the least. Source: Howard and Ruder 2018 (arXiv 1801.06146).

    >>> [unfrozen_depth(step, top=2, boundaries=[10, 20]) for step in (0, 9, 10, 19, 20, 500)]
    [2, 2, 1, 1, 0, 0]
    """
    return max(0, top - bisect_right(boundaries, step))


def train_from_depth(model: nn.Module, depth_of: Mapping[str, int], depth: int, norms: Sequence[nn.Module]) -> None:
    """Let the parameters in ``depth_of`` that lie at ``depth`` or above train, and freeze the others of them.

    Those of ``norms``, the norms that train when their parameters do, go into evaluation mode where all parameters are
    frozen, and into training mode where not.

    >>> model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Linear(1, 1))
    >>> train_from_depth(model, {"0.weight": 0, "1.weight": 0, "1.bias": 0, "2.weight": 1}, 1, [model[1]])
    >>> [name for name, p in model.named_parameters() if p.requires_grad], model[1].training
    (['0.bias', '2.weight', '2.bias'], False)
    """
    for name, its_depth in depth_of.items():
        model.get_parameter(name).requires_grad_(its_depth >= depth)
    frozen = set(frozen_norms(model))
    for norm in norms:
        norm.train(norm not in frozen)
