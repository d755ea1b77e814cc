"""Loaders: every sample once an epoch, any position without replay, draws that depend on the address alone."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from lehr.base.errors import DataError, LehrWarning, SettingError
from lehr.base.protocols import Loader
from lehr.data import Data, training_loader
from lehr.data.order import ShuffledOrder, shuffled
from lehr.data.shard import Shard


class Draws(Dataset[Any]):
    """Samples that draw from all three global generators, and remember which indices were read in this process."""

    def __init__(self, length: int = 24) -> None:
        self.length, self.read = length, []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        self.read.append(index)
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)


class Stream(IterableDataset[Any]):
    def __init__(self, length: int = 10) -> None:
        self.length = length

    def __iter__(self) -> Iterator[torch.Tensor]:
        for index in range(self.length):
            yield torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)


class StatefulStream(Stream):
    """A stream that can say where it is; reading an item that was read before is an error."""

    def __init__(self, length: int = 10) -> None:
        super().__init__(length)
        self.at = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        while self.at < self.length:
            self.at += 1
            yield torch.tensor([self.at - 1, torch.rand(()).item()], dtype=torch.float64)
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


def rows(loader: Loader, batches: int) -> list[Any]:
    return [
        b.tolist() if isinstance(b, torch.Tensor) else [t.tolist() for t in b]
        for b in itertools.islice(loader, batches)
    ]


def make(kind: str, **given_: Any) -> Loader:
    if kind == "tensors":
        return training_loader((torch.arange(24), torch.arange(24) * 2), Data(batch_size=5, **given_), seed=3)
    if kind == "samples":
        return training_loader(Draws(), Data(batch_size=5, **given_), seed=3)
    if kind == "samples, 2 workers":
        return training_loader(Draws(), Data(batch_size=5, workers=2, **given_), seed=3)
    if kind == "stream":
        return training_loader(Stream(), Data(batch_size=4, replay=True, **given_), seed=3)
    if kind == "stateful stream":
        return training_loader(StatefulStream(), Data(batch_size=4, **given_), seed=3)
    if kind == "stateful stream, 1 worker":
        return training_loader(StatefulStream(), Data(batch_size=4, workers=1, **given_), seed=3)
    if kind == "weighted DataLoader":
        weights = torch.arange(1.0, 25.0)
        sampler = WeightedRandomSampler(weights.tolist(), 24)
        return training_loader(DataLoader(Draws(), batch_size=5, sampler=sampler), Data(), seed=3)
    return training_loader(DataLoader(Draws(), batch_size=5, shuffle=True, num_workers=2), Data(), seed=3)


KINDS = [
    "tensors",
    "samples",
    "samples, 2 workers",
    "stream",
    "stateful stream",
    "stateful stream, 1 worker",
    "weighted DataLoader",
    "shuffling DataLoader, 2 workers",
]


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_from_any_position_gives_the_same_batches(kind: str) -> None:
    whole = make(kind)
    expected, states, epochs, ids = [], [whole.state_dict()], [whole.epoch], []
    for batch in itertools.islice(whole, 13):
        expected.append(batch.tolist() if isinstance(batch, torch.Tensor) else [t.tolist() for t in batch])
        states.append(whole.state_dict())
        epochs.append(whole.epoch)
        ids.append(list(whole.ids))
    whole.close()
    for position in (0, 1, 4, 5, 7, 12):
        resumed = make(kind)
        resumed.load_state_dict(states[position])
        assert rows(resumed, 13 - position) == expected[position:]
        assert resumed.ids == ids[-1]
        resumed.close()


@pytest.mark.parametrize("kind", ["samples", "tensors"])
def test_the_state_is_plain_and_small(kind: str) -> None:
    loader = make(kind)
    next(loader)
    assert loader.state_dict() == {"epoch": 0, "batch": 1, "batch_size": 5, "samples": 24}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [2, 4])
def test_draws_do_not_depend_on_the_workers(workers: int) -> None:
    alone, many = make("samples"), training_loader(Draws(), Data(batch_size=5, workers=workers), seed=3)
    assert rows(alone, 8) == rows(many, 8)
    many.close()


def test_draws_differ_between_samples_and_epochs_and_never_repeat() -> None:
    loader = training_loader(Draws(), Data(batch_size=6, workers=2), seed=3)
    drawn = [tuple(row[1:]) for batch in rows(loader, 12) for row in batch]
    loader.close()
    assert len(set(drawn)) == len(drawn) == 72
    assert all(len({row[i] for row in drawn}) == 72 for i in range(3))


def test_draws_do_not_depend_on_what_is_drawn_elsewhere() -> None:
    quiet, loud = make("samples"), make("samples")
    expected = rows(quiet, 6)
    found = []
    for _ in range(6):
        random.random(), np.random.rand(), torch.rand(3)
        found += rows(loud, 1)
    assert found == expected


@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.booleans(), st.integers(1, 4))
@settings(deadline=None)
def test_every_sample_once_in_each_epoch_over_all_shards(
    samples: int, size: int, shuffle: bool, drop_last: bool, shards: int
) -> None:
    size = min(size, samples)
    order = ShuffledOrder(samples, batch_size=size, seed=1, shuffle=shuffle, drop_last=drop_last)
    for epoch in range(2):
        seen: Counter[int] = Counter()
        for index in range(order.batches_per_epoch):
            batch = order.batch(epoch, index)
            parts = [Shard(i, shards).of(batch).tolist() for i in range(shards)]
            assert [i for part in parts for i in part] == batch.tolist()
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
            seen.update(batch.tolist())
        assert set(seen.values()) <= {1}
        assert len(seen) == (samples - samples % size if drop_last else samples)


def test_epochs_have_different_orders_that_follow_from_the_seed() -> None:
    orders = [shuffled(50, seed=s, epoch=e).tolist() for s in (0, 1) for e in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert shuffled(50, seed=1, epoch=1).tolist() == orders[3]


def test_without_shuffling_the_order_is_the_datas() -> None:
    loader = training_loader(torch.arange(7), Data(batch_size=3, shuffle=False), seed=0)
    assert rows(loader, 4) == [[0, 1, 2], [3, 4, 5], [6], [0, 1, 2]]


def test_resuming_reads_nothing_of_what_was_passed_however_much_it_was() -> None:
    samples = Draws(1_000_000)
    loader = training_loader(samples, Data(batch_size=10), seed=0)
    loader.load_state_dict({"epoch": 3, "batch": 90_000})
    start = time.perf_counter()
    next(loader)
    assert time.perf_counter() - start < 1.0
    assert len(samples.read) == 10


def sized(kind: str, *, samples: int = 24, batch_size: int) -> Loader:
    """Return a loader over the numbers below ``samples``, in memory or sample by sample."""
    data = (torch.arange(samples),) if kind == "tensors" else list(range(samples))
    return training_loader(data, Data(batch_size=batch_size), seed=3)


@pytest.mark.parametrize("kind", ["tensors", "samples"])
@pytest.mark.parametrize(("batches", "expected"), [(3, 2), (8, 8), (9, 6), (12, 8)])
def test_another_batch_size_goes_on_at_the_same_sample(kind: str, batches: int, expected: int) -> None:
    """Epochs of 6 batches of 4 and of 4 batches of 6: 12 samples are 3 or 2 batches; no batch begins at sample 8."""
    before, after, alone = sized(kind, batch_size=4), sized(kind, batch_size=6), sized(kind, batch_size=6)
    rows(before, batches)
    if batches == 8:
        with pytest.warns(LehrWarning, match=r"batch 2 of epoch 1, in batches of 4 of 24 samples; no batch of 6 of 24"):
            after.load_state_dict(before.state_dict())
    else:
        after.load_state_dict(before.state_dict())
    rows(alone, expected)
    assert after.epoch == alone.epoch == batches // 6 + (batches == 8)
    assert rows(after, 9) == rows(alone, 9)


@pytest.mark.parametrize("kind", ["tensors", "samples"])
def test_other_data_begins_at_an_epoch_and_every_batch_is_full(kind: str) -> None:
    before, after = sized(kind, samples=64, batch_size=4), sized(kind, samples=24, batch_size=4)
    rows(before, 16 + 13)
    with pytest.warns(LehrWarning, match=r"the rest of that epoch is left out"):
        after.load_state_dict(before.state_dict())
    assert after.epoch == 2
    batches = rows(after, 12)
    assert after.epoch == 4
    assert all(len(batch[0] if kind == "tensors" else batch) == 4 for batch in batches)


@pytest.mark.parametrize("kind", ["tensors", "samples"])
def test_a_position_of_an_old_checkpoint(kind: str) -> None:
    """It did not say in what it counts, and the end of an epoch was the batch behind its last."""
    old, alone = sized(kind, batch_size=4), sized(kind, batch_size=4)
    old.load_state_dict({"epoch": 1, "batch": 6})
    rows(alone, 12)
    assert old.epoch == 2 and rows(old, 3) == rows(alone, 3)
    with pytest.warns(LehrWarning, match="is left out"):
        old.load_state_dict({"epoch": 1, "batch": 13})
    assert old.epoch == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_ahead_draws_the_order_of_an_epoch_once(workers: int) -> None:
    class Counted(torch.utils.data.RandomSampler):
        drawn = 0

        def __iter__(self) -> Iterator[int]:
            self.drawn += 1
            return super().__iter__()

    sampler = Counted(range(24))
    given_ = DataLoader(list(range(24)), batch_size=4, sampler=sampler, num_workers=workers)
    loader = training_loader(given_, Data(), seed=0)
    before = sampler.drawn
    for batch in itertools.islice(loader, 17):
        assert loader.ids == batch.tolist()
    loader.close()
    assert sampler.drawn - before <= 3, "epochs 1 and 2, and 3 that is read ahead"


def test_making_an_iterator_draws_nothing_from_the_global_generator() -> None:
    state = torch.get_rng_state()
    loader = training_loader((torch.arange(4),), Data(batch_size=2), seed=0)
    next(loader)
    workers = training_loader(list(range(8)), Data(batch_size=2, workers=1), seed=0)
    iter(workers)
    workers.load_state_dict(workers.state_dict())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_is_read_once_and_in_order_over_two_processes(workers: int) -> None:
    seen = []
    for rank in range(2):
        loader = training_loader(
            Stream(12), Data(batch_size=4, workers=workers, replay=True), seed=0, shard=Shard(rank, 2)
        )
        seen += [int(row[0]) for batch in rows(loader, 3) for row in batch]
        loader.close()
    assert sorted(seen) == list(range(12))


def test_what_a_stream_draws_does_not_depend_on_its_worker() -> None:
    alone = training_loader(Stream(), Data(batch_size=4), seed=0)
    apart = training_loader(Stream(), Data(batch_size=4, workers=1), seed=0)
    assert rows(alone, 6) == rows(apart, 6)
    apart.close()


def test_a_stream_without_state_is_not_replayed_in_silence() -> None:
    loader = training_loader(Stream(), Data(batch_size=4), seed=0)
    next(loader)
    with pytest.raises(SettingError, match=r"read 4 items of a stream.*data.replay=true"):
        loader.load_state_dict(loader.state_dict())


def test_a_generator_is_refused_since_it_can_be_read_once() -> None:
    with pytest.raises(SettingError, match="read only once"):
        training_loader((i for i in range(5)), Data(batch_size=2), seed=0)


def test_a_stream_takes_one_reader() -> None:
    with pytest.raises(SettingError, match=r"workers=3 for a stream"):
        training_loader(Stream(), Data(batch_size=2, workers=3), seed=0)


class Numbered(Stream):
    """A stream that gives the number that its worker was told."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter([torch.tensor(TOLD)] * 4)


TOLD = -1


def tell(worker: int) -> None:
    global TOLD
    TOLD = worker


def test_a_dataloaders_worker_init_fn_is_called_for_a_stream_too() -> None:
    given_ = DataLoader(Numbered(), batch_size=2, num_workers=1, worker_init_fn=tell)
    loader = training_loader(given_, Data(), seed=0)
    assert rows(loader, 1) == [[0, 0]]
    loader.close()


def test_an_empty_stream_is_named() -> None:
    with pytest.raises(DataError, match="gave no batch"):
        next(training_loader(Stream(0), Data(batch_size=2), seed=0))


def test_a_dataloaders_own_sampler_decides_the_order() -> None:
    class Backwards(torch.utils.data.Sampler[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(5, -1, -1))

        def __len__(self) -> int:
            return 6

    given_ = DataLoader(TensorDataset(torch.arange(6)), batch_size=2, sampler=Backwards())
    assert rows(training_loader(given_, Data(), seed=0), 3) == [[[5, 4]], [[3, 2]], [[1, 0]]]


def test_a_sampler_with_a_generator_of_its_own_is_put_at_its_address() -> None:
    def loader() -> Loader:
        sampler = torch.utils.data.RandomSampler(
            range(8), generator=torch.Generator().manual_seed(random.randrange(99))
        )
        return training_loader(DataLoader(list(range(8)), batch_size=4, sampler=sampler), Data(), seed=0)

    first, second = rows(loader(), 4), rows(loader(), 4)
    assert first == second
    assert first[:2] != first[2:]


def test_a_sampler_that_cannot_be_repeated_is_refused() -> None:
    count = itertools.count()

    class Moody(torch.utils.data.Sampler[int]):
        def __iter__(self) -> Iterator[int]:
            shift = next(count)
            return iter([(i + shift) % 6 for i in range(6)])

        def __len__(self) -> int:
            return 6

    with pytest.raises(SettingError, match="Moody gives another order each time"):
        training_loader(DataLoader(list(range(6)), batch_size=2, sampler=Moody()), Data(), seed=0)


@pytest.mark.parametrize(
    ("data", "given_", "expected"),
    [
        (
            (torch.arange(4),),
            {"batch_size": 5},
            r"batch_size=5 is larger than the data, which has 4 samples; use.*1 to 4",
        ),
        ((torch.empty(0, 2),), {}, "the data is empty"),
        ([], {}, "the data is empty"),
        ((torch.arange(4), torch.arange(5)), {}, r"share their first dimension; these have \[4, 5\]"),
        ([torch.arange(4), torch.arange(4)], {}, "could be samples or columns"),
        ((torch.arange(4),), {"batch_size": 2, "workers": 1}, "workers=1 has no effect on data in memory"),
        (3, {}, "data of type int cannot be read"),
        (DataLoader([1, 2, 3], batch_size=None), {"batch_size": 32}, "batch_size=None"),
        (DataLoader(Stream(), batch_size=None), {"batch_size": 32}, "batch_size=None"),
        (DataLoader([1, 2, 3], batch_size=2), {"batch_size": 2, "shuffle": False}, "data.batch_size has no effect"),
    ],
)
def test_what_cannot_be_read_says_why(data: Any, given_: dict[str, Any], expected: str) -> None:
    with pytest.raises((DataError, SettingError), match=expected):
        training_loader(data, Data(**{"batch_size": 1} | given_), seed=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_cannot_be_read_is_named(workers: int) -> None:
    class Broken(Draws):
        def __getitem__(self, index: int) -> torch.Tensor:
            if index == 7:
                raise OSError("disk error")
            return super().__getitem__(index)

    loader = training_loader(Broken(8), Data(batch_size=8, workers=workers), seed=0)
    with pytest.raises(DataError, match="sample 7 could not be read: OSError: disk error"):
        next(loader)
    loader.close()


def test_arrays_dicts_and_single_tensors() -> None:
    assert rows(training_loader((np.arange(4), np.arange(4.0)), Data(batch_size=4, shuffle=False), seed=0), 1) == [
        [[0, 1, 2, 3], [0.0, 1.0, 2.0, 3.0]]
    ]
    batch = next(training_loader({"x": torch.arange(4)}, Data(batch_size=2, shuffle=False), seed=0))
    assert batch["x"].tolist() == [0, 1]


def test_a_collate_function_makes_the_batch() -> None:
    loader = training_loader(["a", "bb"], Data(batch_size=2, shuffle=False, collate="".join), seed=0)
    assert next(loader) == "abb"
