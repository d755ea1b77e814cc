"""Eight-bit AdamW: bytes, closeness to AdamW, and an exact resume of quantized state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lehr.checkpoint.encode import decode, encode
from lehr.optim import AdamW, AdamW8bit
from lehr.optim.state import NamedState

pytest.importorskip("bitsandbytes", reason="needs lehr[quant]")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 1))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> float:
    loss = torch.zeros(())
    for seed in range(first, last):
        x = torch.randn(32, 32, generator=torch.Generator().manual_seed(seed))
        loss = (model(x)[:, 0] - x.sum(dim=1)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def test_moments_take_a_byte_each() -> None:
    model = network()
    (optimizer,) = AdamW8bit(lr=1e-3).build(model)
    train(model, optimizer, 0, 2)
    large, small = optimizer.state[model[2].weight], optimizer.state[model[2].bias]
    assert large["state1"].dtype == large["state2"].dtype == torch.uint8
    assert small["state1"].dtype == torch.float32
    moments = sum(large[key].nbytes for key in ("state1", "state2", "absmax1", "absmax2"))
    assert moments < 2.1 * large["state1"].numel()  # AdamW's take 8


def test_it_stays_near_adamw() -> None:
    losses = []
    for settings in (AdamW(lr=1e-2), AdamW8bit(lr=1e-2)):
        model = network()
        losses.append(train(model, settings.build(model)[0], 0, 60))
    assert losses[1] == pytest.approx(losses[0], rel=0.2)


def test_quantized_state_goes_on_bit_for_bit() -> None:
    model = network()
    (optimizer,) = AdamW8bit(lr=1e-2).build(model)
    kept = NamedState(model, [optimizer])
    train(model, optimizer, 0, 5)
    saved, weights = decode(*encode(kept.state_dict(), "optimizer")), copy.deepcopy(model.state_dict())
    train(model, optimizer, 5, 10)
    other = network()
    other.load_state_dict(weights)
    (again,) = AdamW8bit(lr=1e-2).build(other)
    NamedState(other, [again]).load_state_dict(saved)
    train(other, again, 5, 10)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
