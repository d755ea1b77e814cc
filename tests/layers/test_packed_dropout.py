"""Packed dropout: the rate, the factor, one mask for both directions, and the exchange in a model."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lehr.base.errors import SettingError
from lehr.layers import PackedDropout, pack_dropout, packed_dropout
from lehr.layers.packed_dropout import LEVELS


@pytest.mark.parametrize("p", [0.0, 1e-4, 0.1, 0.5, 0.9])
def test_values_are_dropped_at_their_rate_and_the_mean_stays(p: float) -> None:
    torch.manual_seed(0)
    out = packed_dropout(torch.ones(1_000_003, dtype=torch.float64), p)
    deviation = math.sqrt(max(p * (1 - p), 1e-12) / len(out))
    assert abs(float((out == 0).double().mean()) - p) < 5 * deviation + 1 / LEVELS
    assert abs(float(out.mean()) - 1) < 5 * deviation / (1 - p) + 1e-9
    assert len(out.unique()) <= 2


def test_draws_side_by_side_are_independent() -> None:
    """Four draws of one word: each pair of places drops together as often as the product of the rates."""
    torch.manual_seed(0)
    dropped = (packed_dropout(torch.ones(400_000), 0.3) == 0).view(-1, 4).double()
    together = dropped.T @ dropped / len(dropped)
    pairs = together[~torch.eye(4, dtype=torch.bool)]
    assert torch.allclose(pairs, torch.full_like(pairs, 0.09), atol=5 * math.sqrt(0.09 * 0.91 / len(dropped)))


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(0, 7), max_size=4),
    p=st.floats(0, 0.99),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
)
def test_any_shape_and_format_is_dropped_alike_in_both_directions(
    shape: list[int], p: float, dtype: torch.dtype
) -> None:
    x = torch.ones(shape, dtype=dtype, requires_grad=True)
    out = packed_dropout(x, p)
    assert (out.shape, out.dtype) == (x.shape, dtype)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out.detach())


def test_other_layouts_keep_their_values() -> None:
    x = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)).transpose(0, 2)
    out = packed_dropout(x, 0.5)
    assert torch.equal(out[out != 0], (2 * x)[out != 0])


def test_a_seed_gives_the_same_draws() -> None:
    torch.manual_seed(3)
    first = packed_dropout(torch.ones(99), 0.5)
    torch.manual_seed(3)
    assert torch.equal(first, packed_dropout(torch.ones(99), 0.5))


def test_a_rate_near_one_and_rates_that_are_none() -> None:
    assert not packed_dropout(torch.ones(9), 0.999999).any()
    with pytest.raises(SettingError, match="p=1"):
        packed_dropout(torch.ones(9), 1.0)


def test_a_model_keeps_its_names_its_mode_and_what_is_not_plain_dropout() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Dropout2d(0.1), nn.TransformerEncoderLayer(4, 2, 8))
    names = list(model.state_dict())
    model.eval()
    assert pack_dropout(model) == 4
    assert list(model.state_dict()) == names
    assert isinstance(model[1], PackedDropout) and not model[1].training and model[1].p == 0.1
    assert type(model[2]) is nn.Dropout2d
    assert pack_dropout(model) == 0
