"""Which process this is, and joining the others."""

from __future__ import annotations

import atexit
import gc
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

from lehr.base.errors import SettingError

__all__ = ["Ranks", "join", "leave"]


@dataclass(frozen=True)
class Ranks:
    """This process's place among the processes of a run.

    >>> Ranks().main
    True
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0


def join(device_type: str) -> Ranks:
    """Join the processes that torchrun started; alone without it. Reads torchrun's environment variables only.

    The group is left when the process ends, and not with a run: joining a second time would meet the first group's
    marks in torchrun's store.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or "RANK" not in os.environ:
        return Ranks()
    if not dist.is_available():
        raise SettingError("this build of torch has no distributed package, so it cannot run under torchrun")
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
        atexit.register(leave)
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device_type == "cuda":
        torch.cuda.set_device(local_rank)
    return Ranks(rank=dist.get_rank(), world=dist.get_world_size(), local_rank=local_rank)


def leave() -> None:
    """Leave the group and end its threads while the interpreter still stands.

    Gloo's threads may still hold tensors of the last exchange. Freeing one after Python has begun to end aborts the
    process, and they end only with the last reference to the group, which may lie in a cycle with a model.
    """
    dist.destroy_process_group()
    gc.collect()
