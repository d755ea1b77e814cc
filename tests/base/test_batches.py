"""Batches are cut and put together without losing or doubling a sample."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lehr.base.batches import num_samples, select, split, to_device
from lehr.base.errors import SettingError

Pair = namedtuple("Pair", "x y")


def kinds(n: int) -> list[object]:
    x, y = torch.arange(2.0 * n).reshape(n, 2), torch.arange(n)
    return [x, (x, y), [x, y], {"x": x, "deep": (y, [y])}, Pair(x, y), {"x": x, "names": [str(i) for i in range(n)]}]


@given(st.integers(1, 40), st.integers(1, 50))
def test_split_keeps_every_sample_once_and_in_order(n: int, parts: int) -> None:
    for batch in kinds(n):
        pieces = split(batch, parts)
        assert len(pieces) == min(parts, n)
        sizes = [num_samples(piece) for piece in pieces]
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == n
    pieces = split({"x": torch.arange(n), "names": [str(i) for i in range(n)]}, parts)
    assert torch.cat([p["x"] for p in pieces]).tolist() == list(range(n))
    assert [name for p in pieces for name in p["names"]] == [str(i) for i in range(n)]


def test_types_are_kept() -> None:
    for batch in kinds(6):
        assert type(split(batch, 2)[0]) is type(batch)
        assert type(to_device(batch, torch.device("cpu"))) is type(batch)


def test_what_is_not_per_sample_goes_to_every_part() -> None:
    batch = {"x": torch.arange(4), "scale": torch.tensor(2.0), "table": torch.zeros(3)}
    for piece in split(batch, 2):
        assert piece["scale"] == 2.0
        assert piece["table"].shape == (3,)


def test_select_by_index() -> None:
    assert select((torch.arange(5), torch.arange(5) * 10), torch.tensor([3, 0]))[1].tolist() == [30, 0]


def test_a_batch_without_tensors_cannot_be_cut() -> None:
    with pytest.raises(SettingError, match="accumulate=2"):
        split(["a", "b"], 2)
