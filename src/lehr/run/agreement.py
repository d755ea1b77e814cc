"""Decisions that all ranks take together."""

from __future__ import annotations

import torch

from lehr.dist.collectives import any_rank, first_given
from lehr.dist.ranks import Ranks

__all__ = ["agree_on_stop"]


def agree_on_stop(asked: str | None, moment: bool, ranks: Ranks, device: torch.device) -> str | None:
    """Return why all ranks stop now, if one of them wants to.

    Alone, a wish is granted at once. Several ranks ask one another only after records, where they wait anyway.

    >>> agree_on_stop("preempted", False, Ranks(), torch.device("cpu"))
    'preempted'
    """
    if ranks.world == 1:
        return asked
    if not moment or not any_rank(asked is not None, ranks, device):
        return None
    return first_given(asked, ranks)
