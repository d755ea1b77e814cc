"""Schedule-free: what the model holds, and that it holds it again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lehr.base.errors import SettingError
from lehr.base.momentum import check_momentum
from lehr.base.protocols import Averaged
from lehr.optim import Rule, ScheduleFreeAdamW, ScheduleFreeSGD


def trained(steps: int, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2).to(dtype)
    (optimizer,) = ScheduleFreeAdamW(lr=0.1).build(model)
    for _ in range(steps):
        model(torch.randn(8, 3, dtype=dtype)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def test_it_is_what_evaluations_ask_for() -> None:
    _, optimizer = trained(1)
    assert isinstance(optimizer, Averaged) and optimizer.prefix == ""


def test_the_average_is_taken_out_again_bit_for_bit_also_after_an_error() -> None:
    model, optimizer = trained(5)
    held = model.weight.detach().clone()

    def fail() -> None:
        with optimizer.put_in():
            assert not torch.equal(model.weight, held)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    assert torch.equal(model.weight, held)


def test_before_the_first_step_there_is_nothing_to_put_in() -> None:
    model, optimizer = trained(0)
    held = model.weight.detach().clone()
    with optimizer.put_in():
        assert torch.equal(model.weight, held)


def test_after_one_step_the_average_is_the_point_itself() -> None:
    model, optimizer = trained(1)
    with optimizer.put_in():
        torch.testing.assert_close(model.weight.detach(), optimizer.state[model.weight]["z"])


def test_evaluating_in_between_changes_nothing() -> None:
    one, first = trained(0)
    other, second = trained(0)
    for seed in range(4):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
        for model, optimizer, look in ((one, first, False), (other, second, True)):
            if look:
                with optimizer.put_in(), torch.no_grad():
                    model(x)
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert torch.equal(one.weight, other.weight)


def test_a_rate_of_zero_weighs_nothing() -> None:
    model, optimizer = trained(3)
    z, y = optimizer.state[model.weight]["z"].clone(), model.weight.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.0
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(model.weight, y) and torch.equal(optimizer.state[model.weight]["z"], z)


def test_an_average_is_better_than_its_last_point_on_a_noisy_valley() -> None:
    """A constant rate keeps jumping about the minimum; the average does not."""
    weight = nn.Linear(50, 1, bias=False)
    (optimizer,) = ScheduleFreeSGD(lr=0.5).build(weight)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        weight.weight.grad = weight.weight.detach() + torch.randn(1, 50, generator=generator)
        optimizer.step()
    at_z = optimizer.state[weight.weight]["z"].norm()
    with optimizer.put_in():
        assert weight.weight.norm() < 0.5 * at_z


def test_what_it_refuses() -> None:
    for wrong in ({"mix": 0.0}, {"mix": 1.0}, {"beta2": 1.0}):
        with pytest.raises(SettingError):
            ScheduleFreeAdamW(**wrong)
    model = nn.Linear(3, 2)
    (optimizer,) = ScheduleFreeAdamW(rules=(Rule(pattern="bias", frozen=True),)).build(model)
    model.weight.grad = torch.sparse_coo_tensor(torch.tensor([[0], [0]]), torch.ones(1), (2, 3), check_invariants=True)
    with pytest.raises(ValueError, match="ScheduleFreeOptimizer does not take sparse gradients"):
        optimizer.step()


def test_a_schedule_that_cycles_the_momentum_is_refused() -> None:
    (optimizer,) = ScheduleFreeAdamW().build(nn.Linear(3, 2))
    with pytest.raises(SettingError, match="but ScheduleFree has none; use cycle_momentum=none"):
        check_momentum([optimizer])
