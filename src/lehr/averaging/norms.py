"""The statistics of batch norm, made anew for weights that no training step had."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
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
) -> None:
    """Give the batch norms of ``model`` the mean, over ``batches``, of each batch's mean and variance.

    ``run_batch`` calls the model, which is in training mode meanwhile, so that its dropout draws. The modules
    ``evaluating``, such as frozen norms, are in evaluation mode and keep their statistics. Nothing happens to models
    without batch norm, and no batch is read for them. Source: Izmailov et al. 2018, arXiv 1803.05407, section 3.2.

    >>> norm = nn.BatchNorm1d(1, momentum=0.1)
    >>> refresh_norms(norm, norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [5.0]])])
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
        given = 0
        for batch in batches if norms else ():
            run_batch(batch)
            given += 1
        if norms and not given:
            raise DataError("the statistics of batch norm need at least one batch of training data; none was given")
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
