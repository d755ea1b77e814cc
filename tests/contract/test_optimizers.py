"""One battery over the table of optimizers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from lehr.checkpoint.encode import decode, encode
from lehr.optim import OPTIMIZERS
from lehr.optim.state import NamedState

ROWS = pytest.mark.parametrize("row", OPTIMIZERS.values(), ids=list(OPTIMIZERS))


def build(row: Any, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)
    return model, row.make().build(model)


def step(model: nn.Module, optimizers: list[torch.optim.Optimizer], seed: int) -> float:
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(seed)).to(next(model.parameters()).dtype)
    loss = (model(x)[:, 0] - x.sum(dim=1)).square().mean()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


@ROWS
def test_descends(row: Any) -> None:
    model, optimizers = build(row)
    losses = [step(model, optimizers, seed) for seed in range(200)]
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])


@ROWS
def test_state_without_pickle_goes_on_bit_for_bit(row: Any) -> None:
    model, optimizers = build(row)
    for seed in range(5):
        step(model, optimizers, seed)
    plain, tensors = encode(NamedState(model, optimizers).state_dict(), "optimizer")
    stored = safetensors.torch.load(safetensors.torch.save(tensors))
    weights = copy.deepcopy(model.state_dict())
    for seed in range(5, 10):
        step(model, optimizers, seed)
    other, others = build(row)
    other.load_state_dict(weights)
    NamedState(other, others).load_state_dict(decode(plain, stored))
    for seed in range(5, 10):
        step(other, others, seed)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


@ROWS
def test_takes_rates_group_by_group(row: Any) -> None:
    model, optimizers = build(row)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = 0.0
    before = copy.deepcopy(model.state_dict())
    step(model, optimizers, 0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@ROWS
def test_zero_gradients_do_no_harm(row: Any) -> None:
    model, optimizers = build(row)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@ROWS
def test_double_precision(row: Any) -> None:
    model, optimizers = build(row, torch.float64)
    assert step(model, optimizers, 0) > 0
    assert all(p.dtype == torch.float64 for p in model.parameters())


@ROWS
def test_has_a_summary_and_settings_that_refuse_nonsense(row: Any) -> None:
    assert row.summary
    with pytest.raises(ValueError, match="greater than 0"):
        row.make(lr=-1.0)
