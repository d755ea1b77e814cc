"""The guide's three ways to count a warm-up, written out beside the one here, and what a warm-up is for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lehr.base.durations import RunLength
from lehr.optim import SGD, Adam
from lehr.schedules import Schedule, Warmup, as_torch


def ours(total: int, steps: int) -> list[float]:
    schedule = Warmup(length=total).resolve(RunLength(max(total, steps)))
    return [schedule(step) for step in range(steps)]


def test_epoch_over_w_wastes_the_first_epoch() -> None:
    """lambda epoch: epoch / W while epoch < W, else 1; drawn in the guide with W = 5."""
    guide = [epoch / 5 if epoch < 5 else 1.0 for epoch in range(8)]
    assert guide == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0]
    assert ours(5, 8) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0])
    assert ours(5, 7) == pytest.approx(guide[1:]), "the same values, one earlier"


def test_epoch_plus_one_over_w_is_ours() -> None:
    """lambda epoch: (epoch + 1) / W while epoch < W, else 1."""
    guide = [(epoch + 1) / 5 if epoch < 5 else 1.0 for epoch in range(8)]
    assert guide == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0]
    assert ours(5, 8) == pytest.approx(guide)


@pytest.mark.parametrize("total", [4000, 10_000])
def test_min_of_step_over_w_and_1_is_ours_one_update_later(total: int) -> None:
    """It gives the update 0 no rate, and reaches the whole rate at the update W; ours at W - 1."""
    guide = [min(step / total, 1.0) for step in range(total + 3)]
    assert guide[0] == 0 and guide[1] == 1 / total and guide[total - 1] < 1 and guide[total] == 1
    mine = ours(total, total + 2)
    assert mine[0] == 1 / total and mine[total - 2] < 1 and mine[total - 1] == 1
    assert mine == pytest.approx(guide[1:])


@pytest.mark.parametrize(
    ("convention", "moved"),
    [(lambda e: e / 5 if e < 5 else 1.0, 0.0), (lambda e: (e + 1) / 5 if e < 5 else 1.0, 0.2)],
    ids=["epoch over W", "epoch + 1 over W"],
)
def test_what_the_first_epoch_does_with_torchs_scheduler(convention: Schedule, moved: float) -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    torch.optim.lr_scheduler.LambdaLR(optimizer, convention)
    weight.grad = -torch.ones(1)
    optimizer.step()
    assert float(weight.detach()) == pytest.approx(moved)


@pytest.mark.parametrize("size", [1e-5, 1.0, 1e5])
def test_the_first_step_of_adam_is_a_whole_one_whatever_the_gradient(size: float) -> None:
    """m̂ / √v̂ of one gradient is its sign: a step of the whole rate along what one batch says. A warm-up shortens it."""

    def first_steps(warmup: int) -> list[float]:
        model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        (optimizer,) = Adam(lr=0.01).build(model)
        scheduler = as_torch(Warmup(length=warmup).resolve(RunLength(1000)), optimizer)
        strides = []
        for _ in range(3):
            before = model.weight.detach().clone()
            model.weight.grad = torch.full_like(before, size)
            optimizer.step()
            scheduler.step()
            strides.append(abs(float((before - model.weight.detach()).item())))
        return strides

    assert first_steps(0) == pytest.approx([0.01] * 3, rel=2e-3)
    assert first_steps(200) == pytest.approx([0.01 / 200, 0.02 / 200, 0.03 / 200], rel=2e-3)


def test_a_rate_that_is_too_large_for_the_start_needs_a_warm_up() -> None:
    """Curvature falls from 40 to 4 as the weight leaves its start, as it does in young networks.

    A rate of 0.3 is above 2 / 40 and below 2 / 4: at once it throws the weight out, after a warm-up it converges.
    """

    def highest(warmup: int) -> tuple[float, float]:
        model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        nn.init.constant_(model.weight, 1.0)
        (optimizer,) = SGD(lr=0.3, momentum=0.0).build(model)
        scheduler = as_torch(Warmup(length=warmup).resolve(RunLength(1000)), optimizer)
        losses = []
        for _ in range(200):
            x = float(model.weight.detach())
            # 2 x² within 1/2 of the minimum; steeper outside, with a slope that fits
            slope = 4 * x if abs(x) < 0.5 else (40 * (abs(x) - 0.5) + 2) * (1 if x > 0 else -1)
            losses.append(abs(x))
            model.weight.grad = torch.full_like(model.weight, slope)
            optimizer.step()
            scheduler.step()
        return max(losses), losses[-1]

    thrown, end = highest(0)
    assert thrown > 100 and end > 100
    kept, end = highest(50)
    assert kept == 1.0 and end < 1e-6
