"""What ranks say to each other. With one rank, each of these is the identity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lehr.dist.ranks import Ranks

__all__ = ["any_rank", "barrier", "first_given", "from_main", "sum_over_ranks", "sums_over_ranks"]

T = TypeVar("T")


def sum_over_ranks(value: Tensor, ranks: Ranks) -> Tensor:
    """Return the sum of ``value`` over the ranks.

    >>> sum_over_ranks(torch.tensor(2.0), Ranks())
    tensor(2.)
    """
    if ranks.world == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total


def sums_over_ranks(values: Sequence[float], ranks: Ranks, device: torch.device) -> list[float]:
    """Return the sums of plain numbers over the ranks, in one exchange, in float64."""
    if ranks.world == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return [float(v) for v in total.tolist()]


def any_rank(flag: bool, ranks: Ranks, device: torch.device) -> bool:
    """Whether ``flag`` is true on any rank: the way to agree on a stop.

    >>> any_rank(False, Ranks(), torch.device("cpu"))
    False
    """
    return flag if ranks.world == 1 else sums_over_ranks([float(flag)], ranks, device)[0] > 0


def first_given(value: T | None, ranks: Ranks) -> T | None:
    """Return the value of the first rank that has one.

    >>> first_given("enough", Ranks())
    'enough'
    """
    if ranks.world == 1:
        return value
    values: list[Any] = [None] * ranks.world
    dist.all_gather_object(values, value)
    return next((v for v in values if v is not None), None)


def from_main(value: T, ranks: Ranks) -> T:
    """Return the main rank's ``value`` on every rank."""
    if ranks.world == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def barrier(ranks: Ranks) -> None:
    """Wait for the other ranks."""
    if ranks.world > 1:
        dist.barrier()
