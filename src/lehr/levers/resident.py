"""Data that lies on the device: no batch is copied there."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lehr.base.batches import to_device
from lehr.base.protocols import Batch
from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["RESIDENT_DATA", "resident"]


def resident(tensors: Batch, device: torch.device | str) -> Batch:
    """Return the tensors of a data set on ``device``, to be indexed there.

    Cost: their size in the device's memory, for the whole run.

    >>> resident((torch.zeros(2), torch.ones(2)), "cpu")
    (tensor([0., 0.]), tensor([1., 1.]))
    """
    return to_device(tensors, torch.device(device))


def _options(setup: Setup) -> Sequence[Settings]:
    if setup.device == "cpu":
        raise NotHere("the processor computes from the memory in which the data lies")
    if setup.data != "memory":
        raise NotHere("the data is read sample by sample; give tensors to have them on the device")
    return [("data.resident=true",)]


RESIDENT_DATA = Lever(
    name="resident-data",
    summary="the whole data set in the device's memory",
    shortens=("data", "synchronization"),
    options=_options,
    untested="accelerators",
)
