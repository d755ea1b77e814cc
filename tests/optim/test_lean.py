"""The short way to the fused kernel gives torch's bits, and steps aside whenever torch's own step could matter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lehr.optim import AdamW, Muon
from lehr.optim.lean import lean_step


def pair(
    settings: object = AdamW(lr=0.01, weight_decay=0.1),
) -> list[tuple[nn.Module, torch.optim.Optimizer, Callable]]:
    made = []
    for lean in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3))
        (optimizer,) = settings.build(model)  # type: ignore[attr-defined]
        made.append((model, optimizer, lean_step(optimizer) if lean else optimizer.step))
    return made


def train(model: nn.Module, step: Callable, steps: int, *, only: int | None = None) -> None:
    for place in range(steps):
        torch.manual_seed(100 + place)
        loss = (model[:only] if only else model)(torch.randn(4, 5)).square().mean()
        loss.backward()
        step()
        model.zero_grad(set_to_none=True)


def same(one: tuple, other: tuple) -> None:
    for (name, p), q in zip(one[0].named_parameters(), other[0].parameters(), strict=True):
        assert torch.equal(p, q), name
        for key, value in one[1].state[p].items():
            assert torch.equal(value, other[1].state[q][key]), (name, key)


def test_fifty_steps_are_bit_for_bit_torchs() -> None:
    plain, lean = pair()
    for made in (plain, lean):
        train(made[0], made[2], 50)
    same(plain, lean)


def test_rates_and_settings_may_change_between_steps() -> None:
    plain, lean = pair()
    for made in (plain, lean):
        for rate in (0.1, 0.01, 0.0, 1e-4):
            for group in made[1].param_groups:
                group["lr"], group["betas"] = rate, (0.5 + rate, 0.99)
            train(made[0], made[2], 2)
    same(plain, lean)


def test_a_missing_gradient() -> None:
    plain, lean = pair()
    for made in (plain, lean):
        train(made[0], made[2], 3)
        train(made[0], made[2], 2, only=1)
        train(made[0], made[2], 3)
    same(plain, lean)


def test_a_state_that_was_loaded_in_between() -> None:
    plain, lean = pair()
    for made in (plain, lean):
        train(made[0], made[2], 3)
        saved = made[1].state_dict()
        train(made[0], made[2], 3)
        made[1].load_state_dict(saved)
        train(made[0], made[2], 3)
    same(plain, lean)


@pytest.mark.parametrize("flag", [0.0, 1.0])
def test_a_masked_update(flag: float) -> None:
    plain, lean = pair()
    for made in (plain, lean):
        train(made[0], made[2], 2)
        made[1].found_inf = torch.tensor(flag)  # type: ignore[attr-defined]
        train(made[0], made[2], 2)
        made[1].found_inf = None  # type: ignore[attr-defined]
        train(made[0], made[2], 2)
    same(plain, lean)
    assert int(lean[1].state[next(lean[0].parameters())]["step"]) == 6 - 2 * int(flag)


def test_hooks_are_called() -> None:
    calls = []
    _, (model, optimizer, step) = pair()
    train(model, step, 2)
    handle = optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(model, step, 3)
    handle.remove()
    train(model, step, 1)
    assert len(calls) == 3


def test_other_optimizers_keep_their_own_step() -> None:
    muon, _ = Muon().build(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)))
    assert lean_step(muon) == muon.step
    plain = torch.optim.AdamW([nn.Parameter(torch.ones(1))], fused=False)
    assert lean_step(plain) == plain.step


def test_amsgrad_and_parameters_of_two_types_take_torchs_step() -> None:
    one, two = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = torch.optim.AdamW([one, two], fused=True, amsgrad=True)
    step = lean_step(optimizer)
    for _ in range(3):
        one.grad, two.grad = torch.ones(2), torch.ones(2, dtype=torch.float64)
        step()
    assert int(optimizer.state[two]["step"]) == 3


def emptied(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> None:
    optimizer.state[parameter].clear()


def popped(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> None:
    optimizer.state.pop(parameter)


def replaced(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> None:
    optimizer.state[parameter]["exp_avg_sq"] = torch.ones_like(parameter)


def refilled(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> None:
    optimizer.state[parameter]["exp_avg"].zero_()


@pytest.mark.parametrize("reset", [emptied, popped, replaced, refilled])
@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_method_may_reset_the_state_of_any_parameter(reset: Callable, place: int) -> None:
    plain, lean = pair()
    for model, optimizer, step in (plain, lean):
        train(model, step, 3)
        reset(optimizer, list(model.parameters())[place])
        train(model, step, 3)
    same(plain, lean)
