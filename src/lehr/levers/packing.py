"""Sequence packing: short sequences one behind another in a row, each seeing only itself, in place of padding."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lehr.base.errors import SettingError
from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["PACKING", "Packed", "pack", "pack_rows"]


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return which sequences share a row of ``capacity`` positions: best fit, the longest first.

    It needs at most 11/9 of the fewest rows possible, and four more. Source: Johnson 1973.

    Raises: `SettingError` for a sequence that is longer than a row, or empty.

    >>> pack([3, 5, 2, 4], capacity=8)
    [[1, 0], [3, 2]]
    """
    rows: list[list[int]] = []
    space: list[tuple[int, int]] = []  # (positions left, row), ascending
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if not 0 < length <= capacity:
            raise SettingError(f"sequence {index} has {length} positions; a row takes 1 to {capacity}")
        place = bisect.bisect_left(space, (length, -1))
        if place == len(space):
            rows.append([])
            left, row = capacity, len(rows) - 1
        else:
            left, row = space.pop(place)
        rows[row].append(index)
        bisect.insort(space, (left - length, row))
    return rows


@dataclass(frozen=True)
class Packed:
    """Rows of several sequences each. Shapes: B rows, T positions."""

    tokens_BT: Tensor
    """Token ids, with padding behind the last sequence of a row."""
    positions_BT: Tensor
    """Places within their sequences, from 0."""
    segments_BT: Tensor
    """Numbers of the sequences within their row, from 1; 0 for padding."""

    def targets_BT(self, ignore: int) -> Tensor:
        """Return each position's next token, and ``ignore`` at the last position of a sequence and in padding."""
        following, same = self.tokens_BT.roll(-1, dims=1), self.segments_BT.roll(-1, dims=1) == self.segments_BT
        same[:, -1] = False
        return following.masked_fill(~same | (self.segments_BT == 0), ignore)

    def mask_BTT(self, *, causal: bool = True) -> Tensor:
        """Return which positions (last dimension) a position sees: its own sequence's, up to itself if ``causal``.

        Padding sees itself, so that no softmax is over nothing. `torch.nn.functional.scaled_dot_product_attention`
        takes it as ``attn_mask[:, None]``.
        """
        length = self.tokens_BT.shape[1]
        seen = self.segments_BT[:, :, None] == self.segments_BT[:, None, :]
        return seen.tril() if causal else seen | torch.eye(length, dtype=torch.bool, device=seen.device)


def pack_rows(sequences: Sequence[Tensor], capacity: int, *, pad: int = 0) -> Packed:
    """Return sequences of token ids, each (length,), packed into rows of ``capacity`` positions.

    >>> packed = pack_rows([torch.tensor([5, 6, 7]), torch.tensor([8, 9])], capacity=6)
    >>> packed.tokens_BT, packed.positions_BT, packed.segments_BT
    (tensor([[5, 6, 7, 8, 9, 0]]), tensor([[0, 1, 2, 0, 1, 0]]), tensor([[1, 1, 1, 2, 2, 0]]))
    """
    rows = pack([len(sequence) for sequence in sequences], capacity)
    tokens = torch.full((len(rows), capacity), pad)
    positions, segments = torch.zeros_like(tokens), torch.zeros_like(tokens)
    for row, indices in enumerate(rows):
        start = 0
        for segment, index in enumerate(indices, start=1):
            stop = start + len(sequences[index])
            tokens[row, start:stop] = sequences[index]
            positions[row, start:stop] = torch.arange(stop - start)
            segments[row, start:stop] = segment
            start = stop
    return Packed(tokens, positions, segments)


def _options(setup: Setup) -> Sequence[Settings]:
    if not setup.padding:
        raise NotHere("there is no padding: text is one stream here, cut into windows")
    raise NotHere(
        "a packed row needs a model that is told where sequences begin, and an encoder-decoder's pairs have two "
        "lengths; bucketing needs neither (lehr.levers.pack_rows is for models of yours)"
    )


PACKING = Lever(
    name="packing",
    summary="short sequences one behind another in a row, in place of padding",
    shortens=("forward", "backward"),
    options=_options,
    changes="order",
)
