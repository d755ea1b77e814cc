"""Models that are sharded or wrapped are refused by name: one process with its own process group."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn

from lehr.base.errors import SettingError
from lehr.lowrank import LowRankLinear, candidates, exchange, low_rank, make_dense, split_attention


@pytest.fixture
def _group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


CALLS: list[Callable[[nn.Module], object]] = [
    candidates,
    split_attention,
    lambda model: low_rank(model, rank=2, names=["0"]),
    lambda model: exchange(model, "0", LowRankLinear(8, 8, 2)),
]


@pytest.mark.usefixtures("_group")
def test_fully_shard_is_refused() -> None:
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    mesh = dist.init_device_mesh("cpu", (1,))
    fully_shard(model[0], mesh=mesh)
    for call in CALLS:
        with pytest.raises(SettingError, match="0 is under FSDPModule.*replace them first, and shard or wrap"):
            call(model)
    fully_shard(model, mesh=mesh)
    with pytest.raises(SettingError, match="FSDPLinear|Sequential is under FSDPModule"):
        candidates(model)


@pytest.mark.usefixtures("_group")
def test_sharded_parameters_are_refused_without_a_wrapper() -> None:
    from torch.distributed.tensor import Replicate, distribute_tensor

    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    mesh = dist.init_device_mesh("cpu", (1,))
    model[1].weight = nn.Parameter(distribute_tensor(model[1].weight.detach(), mesh, [Replicate()]))
    for call in CALLS:
        with pytest.raises(SettingError, match="1 is under DTensor"):
            call(model)


@pytest.mark.usefixtures("_group")
def test_a_wrapped_model_is_refused_and_what_is_wrapped_is_not() -> None:
    inner = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    wrapped = nn.parallel.DistributedDataParallel(inner)
    with pytest.raises(SettingError, match="under DistributedDataParallel"):
        low_rank(wrapped, rank=2, names=["module.0"])
    assert low_rank(inner, rank=2, names=["0"]) == {"0": 2}
    again = nn.parallel.DistributedDataParallel(inner)
    again(torch.ones(1, 8)).sum().backward()
    assert inner[0].U.grad is not None
    assert make_dense(inner) == ["0"]
