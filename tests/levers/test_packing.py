"""Packing: every sequence once, nothing beyond a row, and the losses of the sequences by themselves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.levers import LEVERS, NotHere, Setup, pack, pack_rows

VOCABULARY, WIDTH = 11, 8


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 20), max_size=60))
def test_each_sequence_is_in_one_row_and_rows_are_nearly_as_few_as_can_be(lengths: list[int]) -> None:
    rows = pack(lengths, capacity=20)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 20 for row in rows)
    assert len(rows) <= 2 * sum(lengths) / 20 + 1, "no two rows fit into one"


@pytest.mark.parametrize("lengths", [[21], [3, 0]])
def test_what_fits_no_row_is_named(lengths: list[int]) -> None:
    with pytest.raises(SettingError, match="positions; a row takes 1 to 20"):
        pack(lengths, capacity=20)


class Small(nn.Module):
    """One layer of attention with places; takes a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(40, WIDTH)
        self.qkv, self.head = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens_BT: Tensor, positions_BT: Tensor, mask_BTT: Tensor) -> Tensor:
        x = self.tokens(tokens_BT) + self.places(positions_BT)
        q, k, v = self.qkv(x)[:, None].chunk(3, dim=-1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_BTT[:, None])
        return self.head(x + y[:, 0])


def test_the_loss_is_that_of_the_sequences_by_themselves() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = Small().double()
    lengths = torch.randint(2, 30, (25,), generator=generator).tolist()
    sequences = [torch.randint(VOCABULARY, (length,), generator=generator) for length in lengths]
    packed = pack_rows(sequences, capacity=32)
    scores = model(packed.tokens_BT, packed.positions_BT, packed.mask_BTT())
    together = F.cross_entropy(scores.flatten(0, 1), packed.targets_BT(-1).flatten(), ignore_index=-1, reduction="sum")
    alone = torch.zeros((), dtype=torch.float64)
    for sequence in sequences:
        causal = torch.ones(1, len(sequence), len(sequence), dtype=torch.bool).tril()
        out = model(sequence[None], torch.arange(len(sequence))[None], causal)
        alone = alone + F.cross_entropy(out[0, :-1], sequence[1:], reduction="sum")
    assert torch.allclose(together, alone, rtol=1e-12)
    assert not packed.mask_BTT(causal=False).sum(dim=-1).eq(0).any()


def test_the_figures_of_the_card() -> None:
    lengths = torch.randint(5, 41, (1000,), generator=torch.Generator().manual_seed(0))
    rows = pack(lengths.tolist(), capacity=64)
    total = int(lengths.sum())
    padded = sum(len(batch) * int(batch.max()) for batch in lengths.split(16))
    assert [round(100 * (1 - total / n)) for n in (64 * len(rows), 64 * 1000, padded)] == [1, 65, 42]


def test_the_lever_says_why_it_applies_to_no_recipe() -> None:
    for setup, reason in ((Setup(), "no padding"), (Setup(padding=0.4), "where sequences begin")):
        with pytest.raises(NotHere, match=reason):
            LEVERS["packing"].make().options(setup)
