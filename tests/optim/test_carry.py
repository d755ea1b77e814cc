"""What an optimizer knows of a matrix goes over to the factors in its place, exactly where that is possible."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lehr.optim.carry import factor_states, grown_state, rotated_state

OUT, IN, R, STEPS = 6, 5, 3, 8


def draws(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def state_after(make: Any, gradients: list[Tensor]) -> dict[str, Any]:
    """Return what torch's own optimizer keeps of a parameter after these gradients, at a rate of 0."""
    parameter = nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer = make([parameter])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return dict(optimizer.state[parameter])


MAKERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.0, momentum=0.9),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.0),
    "amsgrad": lambda ps: torch.optim.AdamW(ps, lr=0.0, amsgrad=True),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, lr=0.0, momentum=0.5),
    "adagrad": lambda ps: torch.optim.Adagrad(ps, lr=0.0),
    "muon": lambda ps: torch.optim.Muon(ps, lr=0.0),
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_linear_in_the_gradient_is_what_the_factors_would_have_gathered(name: str) -> None:
    U, V = draws(OUT, R, seed=0), draws(IN, R, seed=1)
    of_W = [draws(OUT, IN, seed=2 + k) for k in range(STEPS)]
    carried = factor_states(state_after(MAKERS[name], of_W), U, V)
    of_U = state_after(MAKERS[name], [G @ V for G in of_W])  # dU = dW V
    of_V = state_after(MAKERS[name], [G.T @ U for G in of_W])  # dV = dW^T U
    for got, true in zip(carried, (of_U, of_V), strict=True):
        assert set(got) == set(true)
        for key, value in true.items():
            assert got[key].shape == value.shape
            if key in ("exp_avg", "momentum_buffer", "step") and name != "rmsprop":
                torch.testing.assert_close(got[key], value)


def test_second_moments_are_right_on_average_for_independent_elements() -> None:
    U, V = draws(OUT, R, seed=0), draws(IN, R, seed=1)
    of_W = [draws(OUT, IN, seed=2 + k) for k in range(4000)]
    keep = lambda ps: torch.optim.Adagrad(ps, lr=0.0)  # noqa: E731
    got = factor_states(state_after(keep, of_W), U, V)[0]["sum"]
    true = state_after(keep, [G @ V for G in of_W])["sum"]
    assert ((got - true).abs() / true).max() < 0.1


def test_turning_the_partner_turns_the_first_moments_exactly() -> None:
    U, V, T = draws(OUT, R, seed=0), draws(IN, R, seed=1), draws(R, 2, seed=9)
    of_W = [draws(OUT, IN, seed=2 + k) for k in range(STEPS)]
    before = factor_states(state_after(MAKERS["sgd"], of_W), U, V)[0]
    after = state_after(MAKERS["sgd"], [G @ (V @ T) for G in of_W])
    torch.testing.assert_close(rotated_state(before, T)["momentum_buffer"], after["momentum_buffer"])


def test_new_columns_have_no_momentum_and_the_second_moment_of_their_neighbours() -> None:
    state = state_after(MAKERS["adamw"], [draws(OUT, R, seed=3)])
    grown = grown_state(state, R + 2)
    assert grown["exp_avg"].shape == grown["exp_avg_sq"].shape == (OUT, R + 2)
    assert (grown["exp_avg"][:, R:] == 0).all()
    torch.testing.assert_close(grown["exp_avg_sq"][:, R:], state["exp_avg_sq"].mean(1, keepdim=True).expand(-1, 2))
    assert grown["step"] == 1
    assert grown["step"] is not state["step"]


@pytest.mark.parametrize("make", [lambda s: factor_states(s, torch.ones(2, 1), torch.ones(2, 1))[0]])
def test_what_is_not_known_is_not_guessed(make: Any) -> None:
    assert make({"exp_avg": torch.ones(2, 2), "basis": torch.ones(2, 2)}) == {}
    assert make({}) == {}
