"""Clipping is torch's, to the bit; state goes by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lehr.base.errors import CheckpointError
from lehr.checkpoint.encode import decode, encode
from lehr.optim import AdamW, clip_factor, global_norm
from lehr.optim.state import GROUPS, NamedState


def test_the_guides_arrow() -> None:
    """Spec section 9.2: (3, 4) has norm 5 and becomes (0.6, 0.8)."""
    gradient = torch.tensor([3.0, 4.0])
    gradient *= clip_factor(global_norm([gradient]), 1.0)
    assert gradient.tolist() == pytest.approx([0.6, 0.8], abs=1e-6)


@given(st.integers(0, 2**31), st.floats(1e-3, 1e3), st.floats(1e-2, 1e2))
def test_it_is_torchs_clipping_bit_for_bit(seed: int, scale: float, limit: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    ours = [torch.randn(3, 4, generator=generator) * scale, torch.randn(5, generator=generator)]
    parameters = [nn.Parameter(torch.zeros_like(g)) for g in ours]
    for parameter, gradient in zip(parameters, ours, strict=True):
        parameter.grad = gradient.clone()
    norm = global_norm(ours)
    assert torch.equal(norm, nn.utils.clip_grad_norm_(parameters, limit))
    torch._foreach_mul_(ours, clip_factor(norm, limit))
    assert all(torch.equal(p.grad, g) for p, g in zip(parameters, ours, strict=True))
    assert float(global_norm(ours)) <= limit * (1 + 1e-5)


def trained(model: nn.Module) -> NamedState:
    optimizers = AdamW(lr=0.01).build(model)
    for place in range(3):
        torch.manual_seed(place)
        model(torch.randn(4, 3)).square().mean().backward()
        optimizers[0].step()
        optimizers[0].zero_grad()
    return NamedState(model, optimizers)


class Forwards(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


class Backwards(Forwards):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.b, self.a = nn.Linear(3, 3), nn.Linear(3, 3)


def test_state_goes_to_the_parameter_of_its_name_whatever_the_order() -> None:
    source, target = trained(Forwards()), NamedState(model := Backwards(), AdamW(lr=0.01).build(model))
    saved = source.state_dict()
    target.load_state_dict(saved)
    for name, state in target.state_dict().items():
        assert all(torch.equal(state[key], saved[name][key]) for key in ("exp_avg", "exp_avg_sq", "step"))


def test_missing_extra_and_misshapen_states_are_named() -> None:
    state = trained(Forwards())
    saved = state.state_dict()
    with pytest.raises(CheckpointError, match=r"without a state: \['b.bias'\]"):
        state.load_state_dict({n: s for n, s in saved.items() if n != "b.bias"})
    with pytest.raises(CheckpointError, match=r"without a parameter: \['c.bias'\]"):
        state.load_state_dict(saved | {"c.bias": saved["b.bias"]})
    with pytest.raises(CheckpointError, match=r"'exp_avg' of 'a.bias' has shape \(3, 3\)"):
        state.load_state_dict(saved | {"a.bias": saved["a.weight"]})


def test_a_parameter_that_was_never_updated_has_an_empty_state() -> None:
    model = Forwards()
    optimizers = AdamW().build(model)
    model.a(torch.randn(2, 3)).sum().backward()
    optimizers[0].step()
    saved = NamedState(model, optimizers).state_dict()
    assert saved["b.weight"] == {} and saved["a.weight"]
    NamedState(model, optimizers).load_state_dict(saved)


class Counting(torch.optim.SGD):
    """Keeps state in its group, as Prodigy, D-Adaptation and schedule-free optimizers do."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
            group["d"] = group.get("d", torch.ones(())) * 1.5
            for parameter in group["params"]:
                parameter.data.add_(parameter.grad, alpha=-float(group["lr"] * group["d"] / group["k"]))


BUILDS = {
    "counting": lambda model: Counting(
        [{"params": [model.a.weight]}, {"params": [model.a.bias, *model.b.parameters()], "lr": 0.2}], lr=0.1
    ),
    "adafactor": lambda model: torch.optim.Adafactor(model.parameters(), lr=0.1),
    "amsgrad": lambda model: torch.optim.Adam(model.parameters(), lr=0.1, amsgrad=True),
    "nadam": lambda model: torch.optim.NAdam(model.parameters(), lr=0.1),
}


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for place in range(first, last):
        torch.manual_seed(place)
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("build", BUILDS.values(), ids=list(BUILDS))
def test_going_on_from_a_saved_state_is_exact(build: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    model = Forwards()
    state = NamedState(model, [optimizer := build(model)])
    steps(model, optimizer, 0, 4)
    saved, weights = decode(*encode(state.state_dict(), "optimizer")), copy.deepcopy(model.state_dict())
    steps(model, optimizer, 4, 8)
    other = Forwards()
    other.load_state_dict(weights)
    restored = NamedState(other, [again := build(other)])
    restored.load_state_dict(saved)
    steps(other, again, 4, 8)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_of_a_group_only_what_has_changed_is_state() -> None:
    model = Forwards()
    optimizer = BUILDS["counting"](model)
    state = NamedState(model, [optimizer])
    assert GROUPS not in state.state_dict()
    steps(model, optimizer, 0, 2)
    optimizer.param_groups[0]["lr"] = 7.0
    groups = state.state_dict()[GROUPS]
    assert {name: sorted(entries) for name, entries in groups.items()} == {"a.weight": ["d", "k"], "a.bias": ["d", "k"]}
    with pytest.raises(CheckpointError, match=r"without a parameter: \['c.bias'\]"):
        state.load_state_dict(state.state_dict() | {GROUPS: {"c.bias": {"k": 1}}})


def test_a_momentum_that_a_schedule_sets_is_no_state() -> None:
    model = Forwards()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    state = NamedState(model, [optimizer])
    steps(model, optimizer, 0, 2)
    optimizer.param_groups[0]["momentum"] = 0.85
    assert GROUPS not in state.state_dict()
    adam = torch.optim.Adam(model.parameters())
    state = NamedState(model, [adam])
    adam.param_groups[0]["betas"] = (0.85, 0.99)
    assert GROUPS not in state.state_dict()


def test_state_within_state_goes_to_the_device_of_its_parameter() -> None:
    model = nn.Linear(2, 1, bias=False, device="meta")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inner = {"exp_avg": torch.ones(2), "step": torch.tensor(3.0)}
    NamedState(model, [optimizer]).load_state_dict({"weight": {"inner": inner, "wait": 4}})
    state = optimizer.state[model.weight]
    assert state["inner"]["exp_avg"].is_meta and state["wait"] == 4
    assert state["inner"]["step"].device.type == "cpu" and float(state["inner"]["step"]) == 3  # counters stay there
