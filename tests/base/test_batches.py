"""Batches are cut and put together without losing or doubling a sample."""

from __future__ import annotations

from collections import defaultdict, namedtuple

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
    for piece in split(batch, 2, samples=4):
        assert piece["scale"] == 2.0
        assert piece["table"].shape == (3,)
        assert piece["x"].shape == (2,)


def test_how_many_samples_there_are_is_not_guessed_from_parts_that_disagree() -> None:
    batch = {"table": torch.zeros(3), "x": torch.arange(4)}
    with pytest.raises(SettingError, match=r"accumulate=2 cannot cut a batch with parts of the lengths 3, 4"):
        split(batch, 2)
    with pytest.raises(SettingError, match=r"lengths 3, 4"):  # images with three channels, or three samples in parts
        split(([torch.zeros(3, 5, 5)] * 4, [torch.zeros(3)] * 4), 2)
    assert [piece["x"].tolist() for piece in split(batch, 2, samples=4)] == [[0, 1], [2, 3]]
    with pytest.raises(SettingError, match="a batch of 8 samples of which no part has that length"):
        split(batch, 2, samples=8)


@pytest.mark.parametrize("size", [3, 4, 8])
def test_lists_of_tensors_are_cut_as_lists(size: int) -> None:
    images, boxes = [torch.full((3, 5, 5), float(i)) for i in range(size)], [torch.zeros(i) for i in range(size)]
    for batch in [(images, list(range(size))), (torch.zeros(size, 2), images, boxes), {"image": images, "box": boxes}]:
        pieces = split(batch, 2, samples=size)
        for name in batch if isinstance(batch, dict) else range(len(batch)):
            assert [len(piece[name]) for piece in pieces] == [(size + 1) // 2, size // 2]
    images_of_pieces = [image for piece in split(images, 2, samples=8) for image in piece] if size == 8 else images
    assert [int(image[0, 0, 0]) for image in images_of_pieces] == list(range(size))


def test_lists_with_other_sure_parts_tell_their_number() -> None:
    images = [torch.zeros(3, 5, 5)] * 8
    assert num_samples((images, [0] * 8)) == num_samples((torch.zeros(8), images)) == 8
    assert num_samples((images, [torch.zeros(i) for i in range(8)])) == 8
    assert num_samples(((torch.zeros(8), torch.zeros(8)), torch.zeros(8))) == 8
    assert len(split((images, [0] * 8), 2)[0][0]) == 4


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_batch_that_is_a_list_of_parts_stays_one_however_many_samples_it_has(n: int) -> None:
    """As torch's own collation returns it."""
    for piece in split([torch.zeros(n, 2), torch.zeros(n)], n):
        assert [tuple(part.shape) for part in piece] == [(1, 2), (1,)] and type(piece) is list
    for piece in split(([torch.zeros(3)] * n, ["a"] * n), n, samples=n) if n > 1 else ():
        assert [len(part) for part in piece] == [1, 1]


def test_tuples_are_cut_as_what_the_rest_of_the_batch_shows() -> None:
    """As in the usual collation for detection, ``tuple(zip(*batch))``: three pictures with three channels each."""
    images = tuple(torch.full((3, 5, 5), float(i)) for i in range(3))
    for targets in (tuple({"boxes": torch.zeros(i + 1)} for i in range(3)), ("a", "b", "c")):
        pieces = split((images, targets), 3, samples=3)
        assert [len(part) for piece in pieces for part in piece] == [1] * 6
        assert [int(piece[0][0][0, 0, 0]) for piece in pieces] == [0, 1, 2]
    parts = (torch.zeros(4, 1), torch.ones(4, 2)), torch.zeros(4)
    assert [tuple(p.shape) for p in split(parts, 2, samples=4)[0][0]] == [(2, 1), (2, 2)]
    with pytest.raises(SettingError, match="2 samples has a tuple of 2 entries of the length 2"):
        split(((torch.zeros(2), torch.zeros(2)), torch.zeros(2)), 2, samples=2)


def test_dictionaries_with_a_default_are_cut_and_moved() -> None:
    batch = defaultdict(list, {"x": torch.arange(4)})
    for made in (*split(batch, 2), to_device(batch, torch.device("cpu"))):
        assert type(made) is defaultdict and made["nothing"] == []
    assert [piece["x"].tolist() for piece in split(batch, 2)] == [[0, 1], [2, 3]]


def test_select_by_index() -> None:
    assert select((torch.arange(5), torch.arange(5) * 10), torch.tensor([3, 0]))[1].tolist() == [30, 0]


def test_a_batch_without_tensors_cannot_be_cut() -> None:
    with pytest.raises(SettingError, match="accumulate=2"):
        split(["a", "b"], 2)
