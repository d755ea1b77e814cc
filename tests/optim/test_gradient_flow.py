"""The rate as a length of time, and as one over the friction: descent against solutions of its differential equation."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from lehr.base.durations import RunLength
from lehr.optim import SGD
from lehr.schedules import Cosine, Schedule

CURVATURE = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
START = torch.tensor([1.0, -2.0], dtype=torch.float64)


class Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(START.clone())


def flow(time: float) -> Tensor:
    """The exact solution of dx/dt = -A x: exp(-A t) x(0)."""
    return torch.linalg.matrix_exp(-CURVATURE * time) @ START


def descent(lr: float, steps: int, *, momentum: float = 0.0, schedule: Schedule = lambda _: 1.0) -> Tensor:
    """Return where gradient descent on xᵀAx/2 is after so many steps."""
    point = Point()
    (optimizer,) = SGD(lr=lr, momentum=momentum).build(point)
    (group,) = optimizer.param_groups
    for step in range(steps):
        group["lr"] = lr * schedule(step)
        point.x.grad = CURVATURE @ point.x.detach()
        optimizer.step()
    return point.x.detach()


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm())


def test_ever_smaller_steps_become_the_flow() -> None:
    """k steps of length t/k: twice as many are half as far from the flow, as Euler's method is."""
    time = 1.5
    errors = [distance(descent(time / k, k), flow(time)) for k in (50, 100, 200, 400)]
    assert errors[-1] < 2e-3 * float(START.norm())
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2, rel=0.03)


@pytest.mark.parametrize(("lr", "steps"), [(0.001, 1500), (0.002, 750), (0.004, 375)])
def test_the_rate_is_the_time_that_a_step_takes(lr: float, steps: int) -> None:
    """Rates and numbers of steps with the same product are the same time, and lead to the same place."""
    assert lr * steps == 1.5
    assert distance(descent(lr, steps), flow(1.5)) < 0.01


def test_under_a_schedule_the_time_is_the_sum_of_the_rates() -> None:
    schedule = Cosine().resolve(RunLength(2000))
    time = sum(0.002 * schedule(step) for step in range(2000))
    assert time == pytest.approx(2.0, rel=1e-3)  # half of 2000 steps at the whole rate
    assert distance(descent(0.002, 2000, schedule=schedule), flow(time)) < 0.01


def test_a_rate_beyond_what_the_flow_allows_leaves_it() -> None:
    """The flow never diverges; steps longer than 2 / curvature do."""
    largest = float(torch.linalg.eigvalsh(CURVATURE).max())
    assert float(descent(2.1 / largest, 200).norm()) > 100
    assert float(flow(2.1 / largest * 200).norm()) < 1e-6


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_with_much_friction_a_ball_moves_as_the_flow_at_rate_over_one_minus_momentum(momentum: float) -> None:
    """The mobility, one over the friction, is lr / (1 - momentum); the inertia fades as the rates become small."""
    errors = []
    for lr in (1e-3, 5e-4, 2.5e-4):
        mobility = lr / (1 - momentum)
        steps = round(1.5 / mobility)
        errors.append(distance(descent(lr, steps, momentum=momentum), flow(steps * mobility)))
    assert errors[-1] < 0.02
    assert errors[0] > 1.8 * errors[1] > 3.2 * errors[2]


@pytest.mark.parametrize(("lr", "momentum"), [(0.1, 0.0), (0.1, 0.9), (0.02, 0.5)])
def test_under_a_steady_force_the_speed_is_the_force_over_the_friction(lr: float, momentum: float) -> None:
    """v = momentum v + force, x -= lr v: at rest between force and friction, the speed is lr force / (1 - momentum)."""
    point = Point()
    (optimizer,) = SGD(lr=lr, momentum=momentum).build(point)
    force = torch.tensor([1.0, 3.0], dtype=torch.float64)
    before = START
    for _ in range(400):
        before = point.x.detach().clone()
        point.x.grad = force.clone()
        optimizer.step()
    friction = (1 - momentum) / lr
    torch.testing.assert_close(before - point.x.detach(), force / friction)
