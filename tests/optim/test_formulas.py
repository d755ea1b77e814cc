"""Step by step in double precision: against torch's optimizer of the same name, or the authors' formula written out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lehr.optim import (
    SGD,
    SOAP,
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    Lion,
    Muon,
    RMSprop,
    Rule,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
)
from lehr.optim.muon import MatrixMuon
from lehr.optim.schedule_free import ScheduleFreeOptimizer
from lehr.optim.soap import SOAPOptimizer, eigenbasis, refreshed

STEPS = 20


def layer(columns: int = 3) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(columns, 4, dtype=torch.float64)


def gradients(model: nn.Module, steps: int = STEPS) -> Iterator[list[Tensor]]:
    """Yield gradients for each step, the same at each call, of sizes that change."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        yield [torch.randn(p.shape, dtype=p.dtype, generator=generator) * 0.5 for p in model.parameters()]


def rate(step: int) -> float:
    """A schedule that rises and falls, as a factor."""
    return min((step + 1) / 4, 1.0) * (1 - step / (2 * STEPS))


def path(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], *, scheduled: bool = True
) -> Iterator[list[Tensor]]:
    """Yield the parameters after each step."""
    rates = [(group, group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]
    for step, given in enumerate(gradients(model)):
        for group, base in rates:
            group["lr"] = base * (rate(step) if scheduled else 1)
        for parameter, gradient in zip(model.parameters(), given, strict=True):
            parameter.grad = gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
        yield [p.detach().clone() for p in model.parameters()]


def agree(one: Iterator[list[Tensor]], other: Iterator[list[Tensor]], **tolerance: float) -> None:
    count = 0
    for ours, theirs in zip(one, other, strict=True):
        count += 1
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, **tolerance or {"rtol": 1e-10, "atol": 1e-12})
    assert count == STEPS


OPTIM = torch.optim
SAME: dict[str, tuple[Any, Callable[[Any], torch.optim.Optimizer]]] = {
    "sgd": (SGD(lr=0.1, momentum=0.0), lambda p: OPTIM.SGD(p, lr=0.1)),
    "momentum": (SGD(lr=0.1), lambda p: OPTIM.SGD(p, lr=0.1, momentum=0.9)),
    "nesterov": (
        SGD(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.1),
        lambda p: OPTIM.SGD(p, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.1),
    ),
    "dampening": (
        SGD(lr=0.1, momentum=0.8, dampening=0.3),
        lambda p: OPTIM.SGD(p, lr=0.1, momentum=0.8, dampening=0.3),
    ),
    "adagrad": (
        Adagrad(lr=0.1, initial_sum=0.2, eps=1e-6, weight_decay=0.1),
        lambda p: OPTIM.Adagrad(p, lr=0.1, initial_accumulator_value=0.2, eps=1e-6, weight_decay=0.1),
    ),
    "rmsprop": (
        RMSprop(lr=0.1, alpha=0.9, eps=1e-6, momentum=0.5, centered=True, weight_decay=0.1),
        lambda p: OPTIM.RMSprop(p, lr=0.1, alpha=0.9, eps=1e-6, momentum=0.5, centered=True, weight_decay=0.1),
    ),
    "adam": (
        Adam(lr=0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
        lambda p: OPTIM.Adam(p, lr=0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    ),
    "amsgrad": (Adam(lr=0.1, amsgrad=True), lambda p: OPTIM.Adam(p, lr=0.1, amsgrad=True)),
    "adamw": (
        AdamW(lr=0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
        lambda p: OPTIM.AdamW(p, lr=0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    ),
    "adafactor": (
        Adafactor(lr=0.1, beta2_decay=-0.7, clip=2.0, eps_scale=1e-2, weight_decay=0.1),
        lambda p: OPTIM.Adafactor(p, lr=0.1, beta2_decay=-0.7, d=2.0, eps=(None, 1e-2), weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_it_is_torchs(name: str) -> None:
    settings, theirs = SAME[name]
    one, other = layer(), layer()
    settings = settings.model_copy(update={"rules": (Rule(pattern="bias", weight_decay=settings.weight_decay),)})
    agree(path(one, settings.build(one)), path(other, [theirs(other.parameters())]))


def by_hand(update: Callable[[int, list[Tensor], Any], None]) -> Iterator[list[Tensor]]:
    """Yield the parameters after each call of ``update(step, gradients, parameters)``."""
    model = layer()
    held = [p.detach().clone() for p in model.parameters()]
    for step, given in enumerate(gradients(model)):
        update(step, given, held)
        yield [p.clone() for p in held]


def test_lion() -> None:
    momenta = [torch.zeros(4, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)]

    def update(step: int, given: list[Tensor], held: list[Tensor]) -> None:
        for place, gradient in enumerate(given):
            eta, decay = 0.1 * rate(step), 0.3 if place == 0 else 0.0
            direction = torch.sign(0.9 * momenta[place] + 0.1 * gradient)
            held[place] = held[place] - eta * (direction + decay * held[place])
            momenta[place] = 0.99 * momenta[place] + 0.01 * gradient

    agree(path(model := layer(), Lion(lr=0.1, weight_decay=0.3).build(model)), by_hand(update))


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_guides_momentum(nesterov: bool) -> None:
    velocities = [torch.zeros(4, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)]

    def update(step: int, given: list[Tensor], held: list[Tensor]) -> None:
        for place, gradient in enumerate(given):
            gradient = gradient + (0.1 * held[place] if place == 0 else 0)
            velocities[place] = 0.8 * velocities[place] + 0.1 * rate(step) * gradient
            ahead = 0.8 * velocities[place] + 0.1 * rate(step) * gradient
            held[place] = held[place] - (ahead if nesterov else velocities[place])

    settings = SGD(lr=0.1, momentum=0.8, weight_decay=0.1, nesterov=nesterov, form="guide")
    agree(path(model := layer(), settings.build(model)), by_hand(update))


def test_the_two_forms_of_momentum_are_equal_until_the_rate_changes() -> None:
    one, other = layer(), layer()
    inside, outside = SGD(lr=0.1, form="guide").build(one), SGD(lr=0.1).build(other)
    agree(path(one, inside, scheduled=False), path(other, outside, scheduled=False))
    weights = []
    for form in ("torch", "guide"):  # gradients of 1, momentum 1/2, rates 1 and 0.1
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        (optimizer,) = SGD(lr=1.0, momentum=0.5, form=form).build(model)
        for eta in (1.0, 0.1):
            optimizer.param_groups[0]["lr"] = eta
            model.weight.grad = torch.ones(1, 1)
            optimizer.step()
        weights.append(model.weight.item())
    # torch: v is 1, then 1.5, all of it at the rate of now; the guide: v is 1, then 0.5 + 0.1
    assert weights == pytest.approx([-1 - 0.1 * 1.5, -1 - 0.6])


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_schedule_free(kind: str) -> None:
    """The paper's three sequences, x kept and not derived; and x is what is put in."""
    start = [p.detach().clone() for p in layer().parameters()]
    xs, zs = [p.clone() for p in start], [p.clone() for p in start]
    second = [torch.zeros_like(p) for p in start]
    total = 0.0

    def update(step: int, given: list[Tensor], held: list[Tensor]) -> None:
        nonlocal total
        eta = 0.1 * rate(step)
        total += eta**2
        for place, gradient in enumerate(given):
            decay = 0.3 if place == 0 else 0.0
            direction = gradient
            if kind == "adamw":
                second[place] = 0.95 * second[place] + 0.05 * gradient**2
                direction = gradient / ((second[place] / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8)
            zs[place] = zs[place] - eta * (direction + decay * held[place])
            share = eta**2 / total
            xs[place] = (1 - share) * xs[place] + share * zs[place]
            held[place] = 0.2 * zs[place] + 0.8 * xs[place]

    common = {"lr": 0.1, "mix": 0.8, "weight_decay": 0.3}
    settings = ScheduleFreeAdamW(beta2=0.95, **common) if kind == "adamw" else ScheduleFreeSGD(**common)
    model = layer()
    optimizers = settings.build(model)
    agree(path(model, optimizers), by_hand(update))
    assert isinstance(optimizers[0], ScheduleFreeOptimizer)
    before = [p.detach().clone() for p in model.parameters()]
    with optimizers[0].put_in():
        for parameter, x in zip(model.parameters(), xs, strict=True):
            torch.testing.assert_close(parameter.detach(), x)
            assert parameter.requires_grad
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_soap() -> None:
    """Of the matrix, with a side that has no basis in the second case; of the bias, Adam."""
    for max_size in (10, 3):
        held = dict(layer().named_parameters())
        weight, bias = held["weight"].detach().clone(), held["bias"].detach().clone()
        first, second = torch.zeros_like(weight), torch.zeros_like(weight)
        m, v = torch.zeros_like(bias), torch.zeros_like(bias)
        left = right = basis_left = basis_right = torch.empty(0)
        sides = (max_size >= 4, max_size >= 3)

        def turned(matrix: Tensor, back: bool = False) -> Tensor:
            u = (basis_left if back else basis_left.T) if sides[0] else torch.eye(4, dtype=torch.float64)  # noqa: B023
            w = (basis_right.T if back else basis_right) if sides[1] else torch.eye(3, dtype=torch.float64)  # noqa: B023
            return u @ matrix @ w

        model = layer()
        ours = path(model, SOAP(lr=0.1, betas=(0.9, 0.8), weight_decay=0.3, every=3, max_size=max_size).build(model))
        for step, (given, mine) in enumerate(zip(gradients(model), ours, strict=True)):
            eta, g, gb = 0.1 * rate(step), given[0], given[1]
            m, v = 0.9 * m + 0.1 * gb, 0.8 * v + 0.2 * gb**2
            bias = bias - eta * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.8 ** (step + 1))).sqrt() + 1e-8)
            torch.testing.assert_close(mine[1], bias)
            if step == 0:  # only sets up the bases
                left, right = 0.2 * g @ g.T, 0.2 * g.T @ g
                basis_left = torch.linalg.eigh(left)[1].flip(1)
                basis_right = torch.linalg.eigh(right)[1].flip(1)
                torch.testing.assert_close(mine[0], weight)
                continue
            first, second = 0.9 * first + 0.1 * g, 0.8 * second + 0.2 * turned(g) ** 2
            mean, square = turned(first) / (1 - 0.9**step), second / (1 - 0.8**step)
            weight = weight * (1 - eta * 0.3) - eta * turned(mean / (square.sqrt() + 1e-8), back=True)
            torch.testing.assert_close(mine[0], weight)
            left, right = 0.8 * left + 0.2 * g @ g.T, 0.8 * right + 0.2 * g.T @ g
            if step % 3 == 0:
                order_left = (basis_left.T @ left @ basis_left).diag().argsort(descending=True)
                order_right = (basis_right.T @ right @ basis_right).diag().argsort(descending=True)
                basis_left = torch.linalg.qr(left @ basis_left[:, order_left])[0]
                basis_right = torch.linalg.qr(right @ basis_right[:, order_right])[0]
                second = second[order_left] if sides[0] else second
                second = second[:, order_right] if sides[1] else second


def test_adafactor_where_the_root_of_the_step_is_below_the_rate() -> None:
    """The formula with a rate of 1, which is above 1/sqrt(t) from the second step on, and a schedule on top."""
    rows, columns, vector = torch.zeros(4, 1).double(), torch.zeros(1, 3).double(), torch.zeros(4).double()

    def update(step: int, given: list[Tensor], held: list[Tensor]) -> None:
        keep = 1 - (step + 1) ** -0.8
        rows.mul_(keep).add_((1 - keep) * given[0].square().mean(1, keepdim=True))
        columns.mul_(keep).add_((1 - keep) * given[0].square().mean(0, keepdim=True))
        vector.mul_(keep).add_((1 - keep) * given[1].square())
        for place, moment in enumerate((rows @ columns / rows.mean(), vector)):
            direction = given[place] / moment.sqrt()
            direction /= max(1.0, float(direction.square().mean().sqrt()))
            size = max(1e-3, float(held[place].square().mean().sqrt()))
            held[place] -= rate(step) * (step + 1) ** -0.5 * size * direction

    model = layer()
    agree(path(model, Adafactor(lr=1.0).build(model)), by_hand(update))


def test_adafactors_groups_keep_their_ratio_and_torchs_do_not() -> None:
    def steps(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> list[float]:
        parameters = [nn.Parameter(torch.ones(4, 4, dtype=torch.float64)) for _ in range(2)]
        optimizer = make(parameters)
        for _ in range(5):
            for parameter in parameters:
                parameter.data.fill_(1.0)
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        return [1 - parameter[0, 0].item() for parameter in parameters]

    def groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
        return [{"params": [p], "lr": lr, "weight_decay": 0.0} for p, lr in zip(parameters, (1.0, 0.5), strict=True)]

    assert steps(lambda p: Adafactor(lr=1.0).make(groups(p))) == pytest.approx([5**-0.5, 0.5 * 5**-0.5])
    assert steps(lambda p: OPTIM.Adafactor(groups(p))) == pytest.approx([5**-0.5, 5**-0.5])


class Largest(TorchDispatchMode):
    """Notes the number of values of the largest tensor that is made."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in torch.utils._pytree.tree_leaves(made) if isinstance(t, Tensor)]
        self.values = max(self.values, *sizes, 0)
        return made


@pytest.mark.parametrize("shape", [(300, 4), (4, 300)])
def test_soap_never_makes_the_square_of_a_side_that_is_too_long(shape: tuple[int, int]) -> None:
    parameter = nn.Parameter(torch.ones(shape))
    optimizer = SOAPOptimizer([parameter], lr=0.1, every=1, max_size=100)
    with Largest() as largest:
        for _ in range(3):
            parameter.grad = torch.ones(shape)
            optimizer.step()
    assert largest.values == 300 * 4  # its square would have 90000
    assert max(value.numel() for value in optimizer.state[parameter].values()) == 300 * 4
    assert len({"left", "right"} & set(optimizer.state[parameter])) == 1


def test_soap_takes_a_kernel_as_a_matrix() -> None:
    torch.manual_seed(0)
    kernel, matrix = nn.Conv1d(3, 4, 2, bias=False).double(), nn.Linear(6, 4, bias=False).double()
    matrix.weight.data = kernel.weight.data.reshape(4, 6).clone()
    optimizers = [SOAP(every=2).build(model)[0] for model in (kernel, matrix)]
    for given in gradients(matrix, 5):
        kernel.weight.grad, matrix.weight.grad = given[0].reshape(4, 3, 2), given[0].clone()
        for optimizer in optimizers:
            optimizer.step()
        assert torch.equal(kernel.weight.reshape(4, 6), matrix.weight)


def test_refreshing_comes_to_the_eigenvectors() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, dtype=torch.float64, generator=generator)
    symmetric = root @ torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)) @ root.T
    basis = torch.eye(5, dtype=torch.float64)
    for _ in range(500):
        basis, _ = refreshed(symmetric, basis)
    torch.testing.assert_close(basis.abs(), eigenbasis(symmetric).abs())


def newton_schulz(matrix: Tensor) -> Tensor:
    """Orthogonalize in double precision, times sqrt(max(1, rows/columns))."""
    x = matrix / matrix.norm()
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x * math.sqrt(max(1, len(matrix) / matrix.shape[1]))


def hidden(model: nn.Module) -> Tensor:
    return next(p for n, p in model.named_parameters() if n == "0.weight")


CASES: dict[str, tuple[nn.Module, dict[str, Any], int]] = {
    "torch": (nn.Linear(4, 6, bias=False), {}, 1),
    "split": (nn.Linear(4, 6, bias=False), {"split_qkv": ("0.*",)}, 3),
    "kernel": (nn.Conv2d(2, 6, 2, bias=False), {"convolutions": "flatten", "aside": ("1",)}, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_muon(case: str) -> None:
    first, settings, parts = CASES[case]
    model = nn.Sequential(first, nn.Linear(6, 1, bias=False)).double()
    optimizer = Muon(lr=0.1, momentum=0.9, weight_decay=0.2, **settings).build(model)[0]
    assert type(optimizer).__name__ == "MatrixMuon"
    parameter = hidden(model)
    weight, buffer = parameter.detach().clone(), torch.zeros_like(parameter)
    for step, given in enumerate(gradients(model)):
        parameter.grad = given[0].clone()
        optimizer.param_groups[0]["lr"] = eta = 0.1 * rate(step)
        optimizer.step()
        buffer = 0.9 * buffer + 0.1 * given[0]
        ahead = (0.1 * given[0] + 0.9 * buffer).reshape(6, -1)
        update = torch.cat([newton_schulz(piece) for piece in ahead.chunk(parts)]).reshape(weight.shape)
        weight = weight * (1 - eta * 0.2) - eta * update
        torch.testing.assert_close(parameter.detach(), weight, rtol=0, atol=0.02)  # torch's kernel is in bfloat16
        weight = parameter.detach().clone()


def test_lehrs_muon_is_torchs_to_the_bit_where_nothing_is_split() -> None:
    models = [nn.Sequential(layer(4), layer(4)) for _ in range(2)]
    parameters = [[p for p in model.parameters() if p.ndim == 2] for model in models]
    one = MatrixMuon(parameters[0], lr=0.1, momentum=0.9, weight_decay=0.2)
    other = torch.optim.Muon(parameters[1], lr=0.1, momentum=0.9, weight_decay=0.2)
    for step, given in enumerate(gradients(models[0])):
        for model, optimizer in zip(models, (one, other), strict=True):
            optimizer.param_groups[0]["lr"] = 0.1 * rate(step)
            for parameter, gradient in zip(model.parameters(), given, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(*parameters, strict=True))


def test_adams_weight_decay_is_l2_in_the_gradient_and_adamws_is_not() -> None:
    """Where the gradient is large, L2 hardly decays in Adam; decoupled decay does not care."""
    left: dict[str, list[float]] = {}
    for name, settings in {"adam": Adam(lr=0.01, weight_decay=0.1), "adamw": AdamW(lr=0.01, weight_decay=0.1)}.items():
        pulled = []
        for decay in (0.0, 0.1):
            model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
            nn.init.ones_(model.weight)
            (optimizer,) = settings.model_copy(update={"weight_decay": decay}).build(model)
            for step in range(50):  # gradients that change sign: large for one weight, small for the other
                model.weight.grad = torch.tensor([[100.0, 0.01]], dtype=torch.float64) * (-1) ** step
                optimizer.step()
            pulled.append(model.weight.detach()[0])
        left[name] = (pulled[0] - pulled[1]).tolist()
    assert left["adamw"] == pytest.approx([0.05, 0.05], rel=0.1)  # 50 steps of 0.01 * 0.1, whatever the gradient
    assert left["adam"][0] < 0.002 and left["adam"][1] > 0.1


@pytest.mark.parametrize("form", ["torch", "guide"])
def test_weight_decay_is_half_the_sum_of_squares(form: str) -> None:
    """``lam * theta^2`` in the loss has the gradient ``2 lam theta``: it is ``weight_decay=2*lam``."""
    lam, weights = 0.05, []
    for decay, penalty in ((2 * lam, 0.0), (0.0, lam), (lam, 0.0)):
        model = layer()
        (optimizer,) = SGD(lr=0.1, weight_decay=decay, form=form).build(model)
        for given in gradients(model):
            loss = sum((p * g).sum() for p, g in zip(model.parameters(), given, strict=True))
            (loss + penalty * model.weight.square().sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
        weights.append(model.weight.detach().clone())
    torch.testing.assert_close(weights[0], weights[1])
    assert not torch.allclose(weights[1], weights[2])
