"""Validation data: each sample once, in order, the same for any batch size, limit or number of processes."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from lehr.base.errors import DataError, SettingError
from lehr.data import Data, validation_batches
from lehr.data.shard import Shard


def flat(batches: object) -> list[int]:
    return [int(v) for batch in batches for v in batch]  # type: ignore[attr-defined]


class Stream(IterableDataset[int]):
    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(range(11))


@pytest.mark.parametrize(
    "data",
    [
        torch.arange(11),
        list(range(11)),
        DataLoader(list(range(11)), batch_size=4),
        Stream(),
        DataLoader(Stream(), batch_size=4),
    ],
    ids=["tensor", "samples", "DataLoader", "stream", "DataLoader of a stream"],
)
def test_each_sample_once_each_time(data: object) -> None:
    batches = validation_batches(data, Data(batch_size=4), seed=0)
    assert flat(batches(None)) == list(range(11))
    assert flat(batches(None)) == list(range(11))


def test_a_limit_is_spread_over_the_data() -> None:
    batches = validation_batches(torch.arange(100), Data(batch_size=10), seed=0)
    assert flat(batches(2)) == [*range(10), *range(90, 100)]
    assert flat(batches(99)) == list(range(100))
    assert len(flat(batches(3))) == 30


@pytest.mark.parametrize("data", [torch.arange(21), list(range(21))], ids=["tensor", "samples"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_processes_share_the_batches_without_doubling_any(data: object, count: int) -> None:
    seen = []
    for index in range(count):
        seen += flat(validation_batches(data, Data(batch_size=2), seed=0, shard=Shard(index, count))(None))
    assert sorted(seen) == list(range(21))


def test_its_own_batch_size_and_data_smaller_than_a_batch() -> None:
    batches = validation_batches(torch.arange(5), Data(batch_size=2, val_batch_size=100), seed=0)
    assert [len(batch) for batch in batches(None)] == [5]


def test_empty_validation_data_and_shared_streams_are_refused() -> None:
    with pytest.raises(DataError, match="validation data is empty"):
        validation_batches([], Data(), seed=0)
    with pytest.raises(SettingError, match="counting samples twice"):
        validation_batches(Stream(), Data(), seed=0, shard=Shard(0, 2))


@pytest.mark.parametrize("data", [list(range(8)), Stream()], ids=["samples", "stream"])
def test_whole_batches_without_samples_are_refused(data: object) -> None:
    with pytest.raises(SettingError, match=r"DataLoader\(batch_size=None\) hands out whole batches"):
        validation_batches(DataLoader(data, batch_size=None), Data(), seed=0)  # type: ignore[arg-type]
