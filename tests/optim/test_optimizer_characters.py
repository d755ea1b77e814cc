"""What each optimizer is for, on problems small enough to see it: valleys, slopes, rare features, gradients of any size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lehr.optim import SGD, Adagrad, Adam, AdamW, RMSprop


class Point(nn.Module):
    """One vector of weights, so that gradients can be given by a formula."""

    def __init__(self, *start: float) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(start, dtype=torch.float64))


def travel(settings: Any, slope: Callable[[Tensor, int], Tensor], start: list[float], steps: int) -> Tensor:
    """Return the places (steps + 1, weights) that an optimizer comes to."""
    point = Point(*start)
    (optimizer,) = settings.build(point)
    places = [point.x.detach().clone()]
    for step in range(steps):
        point.x.grad = slope(point.x.detach(), step).clone()
        optimizer.step()
        places.append(point.x.detach().clone())
    return torch.stack(places)


def turns(walls: Tensor) -> int:
    """Return how often a coordinate changes its sign."""
    return int((walls[1:] * walls[:-1] < 0).sum())


CURVATURES = torch.tensor([100.0, 1.0], dtype=torch.float64)
"""A valley with steep walls: the loss is the sum of c x² / 2."""


def valley(x: Tensor, _step: int) -> Tensor:
    return CURVATURES * x


def loss(x: Tensor) -> float:
    return float((CURVATURES * x * x).sum() / 2)


def test_plain_sgd_goes_from_wall_to_wall_and_momentum_along_the_valley() -> None:
    """An update multiplies the steep weight by 1 - 100 lr = -0.99, and the flat one by 0.9801."""
    plain, ball = (travel(SGD(lr=0.0199, momentum=m), valley, [1.0, 10.0], 200) for m in (0.0, 0.9))
    assert turns(plain[:, 0]) == 200
    assert turns(ball[:, 0]) <= 110
    assert abs(float(plain[200, 0])) == pytest.approx(0.99**200)
    assert float(plain[200, 1]) == pytest.approx(10 * 0.9801**200)
    # both roots of z² - (1.9 - lr c) z + 0.9 have the modulus sqrt(0.9) for both curvatures
    assert float(ball[150:].abs().amax()) < 200 * math.sqrt(0.9) ** 150
    assert loss(ball[200]) < 1e-4 * loss(plain[200])


def test_a_ball_grows_faster_down_a_slope_and_rolls_through_a_shallow_valley() -> None:
    down = travel(SGD(lr=0.01, momentum=0.9), lambda x, _: torch.ones_like(x), [0.0], 200)
    strides = (down[:-1] - down[1:])[:, 0]
    assert float(strides[0]) == pytest.approx(0.01) and float(strides[-1]) == pytest.approx(0.1)
    assert bool((strides[1:] >= strides[:-1] - 1e-12).all())

    def ripples(x: Tensor, _step: int) -> Tensor:
        return x + 2 * torch.sin(4 * x)  # shallow valleys on the way to the one at 0

    plain, ball = (travel(SGD(lr=0.01, momentum=m), ripples, [3.5], 1000)[-1] for m in (0.0, 0.9))
    assert float(plain) > 1.2, "it is caught in the first valley that it comes to"
    assert abs(float(ball)) < 1e-6


def test_nesterov_overshoots_less_than_classical_momentum() -> None:
    """On x²/2, from 1, with the same rate and momentum."""
    classical, nesterov = (
        travel(SGD(lr=0.05, momentum=0.9, nesterov=n), lambda x, _: x, [1.0], 200)[:, 0] for n in (False, True)
    )
    assert float(classical.min()) < -0.4
    assert float(classical.min()) < float(nesterov.min()) - 0.1
    assert float(nesterov[100:].abs().max()) < 0.5 * float(classical[100:].abs().max())


def test_plain_sgd_at_the_guides_rate_is_simple_and_slow() -> None:
    settings = SGD(momentum=0.0)
    assert settings.lr == 0.01
    point = Point(2.0)
    (optimizer,) = settings.build(point)
    point.x.grad = torch.tensor([3.0], dtype=torch.float64)
    optimizer.step()
    assert point.x.tolist() == [pytest.approx(2 - 0.01 * 3)]
    assert not any(isinstance(v, Tensor) for state in optimizer.state.values() for v in state.values())
    far = travel(settings, lambda x, _: 0.01 * x, [1.0], 1000)[-1]  # a flat place: 1000 steps are a tenth of the way
    assert float(far) == pytest.approx(math.exp(-0.1), rel=1e-3)


@pytest.mark.parametrize("adaptive", [Adam, AdamW])
def test_adam_has_a_stride_for_each_weight_and_sgd_one_for_all(adaptive: Any) -> None:
    sizes = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)
    strides = travel(adaptive(lr=0.01), lambda _x, _: sizes, [0.0] * 3, 1)[1].abs()
    assert strides.tolist() == pytest.approx([0.01] * 3, rel=1e-4)
    plain = travel(SGD(lr=0.01, momentum=0.0), lambda _x, _: sizes, [0.0] * 3, 1)[1].abs()
    assert plain.tolist() == pytest.approx([1e-5, 1e-2, 10.0])


def test_adam_does_not_mind_the_scale_of_the_loss_and_sgd_diverges() -> None:
    steps = 200
    one, thousand = (travel(Adam(lr=0.05), lambda x, _, k=k: k * x, [1.0], steps) for k in (1.0, 1000.0))
    torch.testing.assert_close(one, thousand, rtol=1e-4, atol=1e-5)
    calm, wild = (travel(SGD(lr=0.05, momentum=0.0), lambda x, _, k=k: k * x, [1.0], steps) for k in (1.0, 1000.0))
    assert abs(float(calm[-1])) < 1e-4 and float(wild[50].abs()) > 1e80


def test_adam_may_end_at_a_solution_that_generalizes_worse() -> None:
    """Of the many exact solutions of 5 equations in 20 unknowns, SGD from 0 finds the smallest; Adam does not.

    Wilson et al. 2017 (arXiv 1705.08292). The oracle is the pseudoinverse.
    """
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 20, generator=draw, dtype=torch.float64)
    wanted = torch.randn(5, generator=draw, dtype=torch.float64)
    smallest = torch.linalg.pinv(rows) @ wanted
    ends = {}
    for name, settings in {"sgd": SGD(lr=0.01), "adam": Adam(lr=0.01)}.items():
        end = travel(settings, lambda x, _: rows.T @ (rows @ x - wanted), [0.0] * 20, 3000)[-1]
        assert float((rows @ end - wanted).abs().max()) < 1e-6, "both fit the data"
        ends[name] = end
    torch.testing.assert_close(ends["sgd"], smallest)
    assert float(ends["adam"].norm()) > 1.1 * float(smallest.norm())


def rare(_x: Tensor, step: int) -> Tensor:
    """A feature that is in each sample, and one that is in each hundredth."""
    return torch.tensor([1.0, 1.0 if step % 100 == 99 else 0.0], dtype=torch.float64)


@pytest.mark.parametrize("settings", [Adagrad(lr=0.1), RMSprop(lr=0.01, alpha=0.999)], ids=["adagrad", "rmsprop"])
def test_rare_features_keep_up_under_divided_gradients_and_not_under_sgd(settings: Any) -> None:
    """A hundredth of the gradients moves a weight a hundredth as far; divided by their root, a tenth as far."""
    steps = 10_000
    plain = travel(SGD(lr=0.01, momentum=0.0), rare, [0.0, 0.0], steps)[-1]
    assert float(plain[1] / plain[0]) == pytest.approx(0.01)
    divided = travel(settings, rare, [0.0, 0.0], steps)[-1]
    assert float(divided[1] / divided[0]) == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize("settings", [Adagrad(lr=0.1), RMSprop(lr=0.1, alpha=0.9)], ids=["adagrad", "rmsprop"])
def test_a_first_rare_gradient_moves_as_far_as_a_first_frequent_one(settings: Any) -> None:
    places = travel(settings, rare, [0.0, 0.0], 100)
    assert float((places[1] - places[0])[0]) == pytest.approx(float((places[100] - places[99])[1]), rel=1e-6)


def slopes(steps: int = 30) -> Callable[[Tensor, int], Tensor]:
    given = torch.randn(steps, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return lambda _x, step: given[step]


def test_each_is_the_one_before_it_and_one_thing_more() -> None:
    """SGD, momentum, Nesterov, Adagrad, RMSprop, Adam, AdamW: with the new thing switched off, it is the older one."""
    start, steps = [1.0, -2.0, 0.5], 30

    def path(settings: Any, slope: Callable[[Tensor, int], Tensor] | None = None) -> Tensor:
        return travel(settings, slope or slopes(), start, steps)

    sgd = path(SGD(lr=0.1, momentum=0.0))
    gradients = torch.stack([slopes()(sgd, step) for step in range(steps)])
    by_hand = torch.tensor(start, dtype=torch.float64) - 0.1 * gradients.sum(0)
    torch.testing.assert_close(sgd[-1], by_hand)
    momentum, nesterov = path(SGD(lr=0.1)), path(SGD(lr=0.1, nesterov=True))
    torch.testing.assert_close(momentum[1], sgd[1])  # the first velocity is the gradient
    assert not torch.allclose(momentum[2], sgd[2])
    torch.testing.assert_close(nesterov[1] - sgd[1], 0.9 * (sgd[1] - sgd[0]))  # the same step again, ahead of time

    def one(x: Tensor, _step: int) -> Tensor:
        return torch.ones_like(x)

    adagrad, rmsprop = path(Adagrad(lr=0.1), one), path(RMSprop(lr=0.1, alpha=0.5), one)
    shrinking, steady = ((p[:-1] - p[1:])[:, 0] for p in (adagrad, rmsprop))
    assert shrinking.tolist() == pytest.approx([0.1 / math.sqrt(t + 1) for t in range(steps)])  # a sum only grows
    assert float(steady[-1]) == pytest.approx(0.1, rel=1e-6)  # a running mean does not
    adam = path(Adam(lr=0.1, betas=(0.0, 0.9)))
    v, expected = torch.zeros(3, dtype=torch.float64), torch.tensor(start, dtype=torch.float64)
    for step in range(steps):
        gradient = slopes()(expected, step)
        v = 0.9 * v + 0.1 * gradient**2  # RMSprop's mean, without the bias of its first steps
        expected = expected - 0.1 * gradient / ((v / (1 - 0.9 ** (step + 1))).sqrt() + 1e-8)
    torch.testing.assert_close(adam[-1], expected)
    assert torch.equal(path(Adam(lr=0.1)), path(AdamW(lr=0.1, weight_decay=0.0)))
