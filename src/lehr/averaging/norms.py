"""The statistics of batch norm, made anew for weights that no training step had."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lehr.base.errors import DataError
from lehr.base.protocols import Batch

__all__ = ["refresh_norms", "tracking_norms"]


def tracking_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms that keep running statistics.

    >>> len(tracking_norms(nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False))))
    1
    """
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@torch.no_grad()
def refresh_norms(
    model: nn.Module,
    run_batch: Callable[[Batch], Any],
    batches: Iterable[Batch],
    *,
    evaluating: Iterable[nn.Module] = (),
    share: Callable[[list[_BatchNorm]], None] = lambda norms: None,
) -> int:
    """Give the batch norms of ``model`` the mean, over ``batches``, of each batch's mean and variance.

    ``run_batch`` calls the model, which is in training mode meanwhile, so that its dropout draws. The modules
    ``evaluating``, such as frozen norms, are in evaluation mode and keep their statistics. Nothing happens to models
    without batch norm, and no batch is read for them. Source: Izmailov et al. 2018, arXiv 1803.05407, section 3.2.

    A batch whose statistics are not finite is left out; returns how many were. ``share`` is called with the norms after
    the last batch, to add what other processes saw. Raises `DataError` where no batch counts.

    >>> norm = nn.BatchNorm1d(1, momentum=0.1)
    >>> _ = refresh_norms(norm, norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [5.0]])])
    >>> norm.running_mean, norm.running_var, norm.momentum
    (tensor([3.5000]), tensor([1.]), 0.1)
    """
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    for module in evaluating:
        module.training = False
    norms = [norm for norm in tracking_norms(model) if norm.training]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # counts all batches alike
        given = left_out = 0
        for batch in batches if norms else ():
            before = [statistic.clone() for statistic in _statistics(norms)]
            run_batch(batch)
            given += 1
            # one bad sample would otherwise stay in the mean for good
            if not all(bool(statistic.isfinite().all()) for statistic in _statistics(norms)):
                torch._foreach_copy_(_statistics(norms), before)
                left_out += 1
        share(norms)
        if norms and not any(bool(norm.num_batches_tracked) for norm in norms):
            raise DataError(
                f"none of {given} batches of training data gives batch norm statistics that are finite"
                if given
                else "the statistics of batch norm need at least one batch of training data; none was given"
            )
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
    return left_out


def _statistics(norms: Iterable[_BatchNorm]) -> list[Tensor]:
    return [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
