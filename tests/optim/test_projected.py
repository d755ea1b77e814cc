"""The projected optimizers: equal to the inner one where they must be, and by hand numbers where they are not."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.base.momentum import check_momentum, set_momentum
from lehr.base.seeds import generator
from lehr.base.settings import override
from lehr.checkpoint.encode import decode, encode
from lehr.lowrank.projector import overlap
from lehr.models.gpt import GPTSettings
from lehr.optim import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Lion,
    Muon,
    Projected,
    RMSprop,
    Rule,
    ScheduleFreeAdamW,
    optimizer_bytes,
)
from lehr.optim.lowrank import INNER, ProjectedOptimizer
from lehr.optim.state import NamedState
from lehr.recipes.gpt_text import recipe

INNERS = pytest.mark.parametrize("inner", list(INNER))
PROJECTORS = pytest.mark.parametrize("projector", ["galore", "random", "power"])


def model(dtype: torch.dtype = torch.float64, width: int = 6) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, width), nn.Tanh(), nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)


def gradients(network: nn.Module, step: int) -> None:
    """Set gradients of rank about 3, which change slowly, and noise."""
    for place, parameter in enumerate(network.parameters()):
        draw = generator(7, place)
        shape, first = parameter.shape, parameter.shape[0]
        left, right = (torch.randn(k, 3, generator=draw, dtype=torch.float64) for k in (first, parameter[0].numel()))
        turn = torch.tensor([math.cos(0.05 * step), math.sin(0.05 * step), 1.0], dtype=torch.float64)
        noise = 0.1 * torch.randn(shape, generator=generator(8, place, step), dtype=torch.float64)
        parameter.grad = ((left * turn) @ right.T).reshape(shape).add(noise).to(parameter.dtype)


def ran(settings: Any, steps: int = 12, network: nn.Sequential | None = None) -> nn.Sequential:
    network = model() if network is None else network
    optimizers = settings.build(network)
    for step in range(steps):
        gradients(network, step)
        for optimizer in optimizers:
            optimizer.step()
    return network


def only(settings: Projected, shape: tuple[int, int] = (6, 9)) -> tuple[nn.Parameter, ProjectedOptimizer]:
    """Return one matrix, and the projected optimizer over it."""
    parameter = nn.Parameter(torch.randn(shape, generator=generator(3, "only"), dtype=torch.float64))
    optimizer = settings.make([{"params": [parameter], "lr": settings.lr, "weight_decay": settings.weight_decay}])
    assert isinstance(optimizer, ProjectedOptimizer)
    return parameter, optimizer


def small(**given: Any) -> Projected:
    return Projected(**{"min_size": 2, "weight_decay": 0.0} | given)


def assert_close(one: nn.Module, other: nn.Module, **tolerance: float) -> None:
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, **tolerance or {"rtol": 1e-9, "atol": 1e-11})


@PROJECTORS
@pytest.mark.parametrize("residual", ["feedback", None])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_at_full_rank_it_is_sgd(projector: str, residual: str, momentum: float) -> None:
    """SGD's step turns with the basis, whichever that is and however often it changes."""
    inner = SGD(lr=0.1, momentum=momentum)
    full = small(lr=0.1, inner=inner, ratio=1.0, projector=projector, residual=residual, every=5)
    assert_close(ran(full), ran(inner))


@INNERS
def test_at_full_rank_along_the_axes_it_is_any_inner_optimizer(inner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lehr.optim.lowrank.refresh", lambda A, rank, *_, **__: torch.eye(len(A), dtype=A.dtype))
    settings = INNER[inner].make(lr=0.01, weight_decay=0.0)
    for residual in ("scaled", None):
        full = small(lr=0.01, inner=settings, ratio=1.0, residual=residual, every=5)
        assert_close(ran(full), ran(settings))


@INNERS
@PROJECTORS
@pytest.mark.parametrize("residual", ["scaled", "feedback", None])
def test_every_combination_descends(inner: str, projector: str, residual: str) -> None:
    network = model()
    settings = small(lr=0.01, inner=INNER[inner].make(lr=0.01), ratio=0.5, projector=projector, residual=residual)
    optimizers = settings.build(network)
    x = torch.randn(64, 9, generator=generator(1, "x"), dtype=torch.float64)
    losses = []
    for _ in range(80):
        loss = (network(x)[:, 0] - x[:, 0]).square().mean()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_step_stays_within_the_basis_without_a_residual() -> None:
    parameter, optimizer = only(small(residual=None, ratio=0.34))
    before = parameter.detach().clone()
    parameter.grad = torch.randn(6, 9, generator=generator(0, "g"), dtype=torch.float64)
    optimizer.step()
    change, basis = parameter.detach() - before, optimizer.state[parameter]["basis"]
    assert basis.shape == (6, 2) and torch.linalg.matrix_rank(change, atol=1e-12) == 2
    torch.testing.assert_close(basis @ (basis.T @ change), change)
    assert float(overlap(basis, torch.linalg.svd(parameter.grad).U[:, :2])) == pytest.approx(1, abs=1e-6)


def test_the_scaled_residual_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fira, with plain SGD of rate 1 and Lion within: N = R, or its sign."""
    basis = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    monkeypatch.setattr("lehr.optim.lowrank.refresh", lambda *_, **__: basis)
    gradient = torch.tensor([[2.0, -4.0, 0.0], [1.0, 3.0, 5.0]], dtype=torch.float64)
    for inner, expected in (
        (SGD(momentum=0.0), [[2.0, -4.0, 0.0], [1.0, 3.0, 0.0]]),  # scales 1, 1 and 0 where nothing is in the basis
        (Lion(), [[1.0, -1.0, 0.0], [0.5, 0.75, 0.0]]),  # scales 1/2 and 1/4
    ):
        parameter, optimizer = only(small(lr=0.5, inner=inner), (2, 3))
        before = parameter.detach().clone()
        parameter.grad = gradient.clone()
        optimizer.step()
        torch.testing.assert_close((before - parameter.detach()) / 0.5, torch.tensor(expected, dtype=torch.float64))


def test_random_directions_only_scale_the_gradient_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """APOLLO: the whole gradient, each channel times ||N_j|| / ||R_j||."""
    basis = torch.tensor([[0.625], [0.75]], dtype=torch.float64)  # no unit, but R is exact
    monkeypatch.setattr("lehr.optim.lowrank.refresh", lambda *_, **__: basis)
    gradient = torch.tensor([[4.0, -6.0, -8.0], [2.0, 5.0, -4.0]], dtype=torch.float64)  # R = 4, 0, -8
    parameter, optimizer = only(small(lr=0.1, inner=Lion(), projector="random"), (2, 3))
    before = parameter.detach().clone()
    parameter.grad = gradient.clone()
    optimizer.step()
    scales = torch.tensor([1 / 4, 0.0, 1 / 8], dtype=torch.float64)
    torch.testing.assert_close(before - parameter.detach(), 0.1 * gradient * scales)


def test_random_directions_scale_as_all_of_adam_would() -> None:
    """E ||R_j||^2 = (r/s) ||G_j||^2, so no factor sqrt(s/r) is missing."""
    shape = (256, 300)
    gradient = torch.randn(shape, generator=generator(0, "g"), dtype=torch.float64)
    changes = []
    for settings in (small(projector="random", limit=None), None):
        parameter = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        groups = [{"params": [parameter], "lr": 1.0, "weight_decay": 0.0}]
        optimizer = settings.make(groups) if settings else AdamW().make(groups)
        for _ in range(3):
            parameter.grad = gradient
            optimizer.step()
        changes.append(parameter.detach().norm().item())
    assert changes[0] == pytest.approx(changes[1], rel=0.05)


def test_the_residual_grows_by_the_limit_at_most() -> None:
    parameter, optimizer = only(small(inner=SGD(momentum=0.0), lr=1.0, ratio=0.34, limit=1.05, every=1000))
    norms, scales = [], [1.0, 10.0, 10.0, 0.1, 0.5, 0.0, 7.0]
    first = torch.randn(6, 9, generator=generator(0, "g"), dtype=torch.float64)
    for scale in scales:
        before = parameter.detach().clone()
        parameter.grad = scale * first
        optimizer.step()
        change, basis = before - parameter.detach(), optimizer.state[parameter]["basis"]
        norms.append((change - basis @ (basis.T @ change)).norm().item())
        torch.testing.assert_close(basis @ (basis.T @ change), basis @ (basis.T @ parameter.grad))  # never limited
    unit = norms[0]
    limits = [1, 1.05, 1.05**2, 0.1, 0.105, 0, 7]  # after a norm of 0 there is nothing to compare with
    assert norms == pytest.approx([unit * limit for limit in limits], abs=1e-12)


@PROJECTORS
def test_feedback_keeps_all_of_every_gradient(projector: str) -> None:
    """With SGD of rate 1 within: what has been stepped and what is kept add up to the gradients so far."""
    inner = SGD(momentum=0.0)
    parameter, optimizer = only(
        small(lr=1.0, inner=inner, projector=projector, residual="feedback", ratio=0.34, every=1)
    )
    start, total = parameter.detach().clone(), torch.zeros(6, 9, dtype=torch.float64)
    constant = torch.randn(6, 9, generator=generator(0, "g"), dtype=torch.float64)
    for step in range(60):
        parameter.grad = constant + torch.randn(6, 9, generator=generator(0, step), dtype=torch.float64)
        total += parameter.grad
        optimizer.step()
        torch.testing.assert_close(start - parameter.detach() + optimizer.state[parameter]["error"], total)
    assert optimizer.state[parameter]["error"].norm() < 0.5 * total.norm()  # and what is kept does not pile up


def test_decay_is_decoupled_and_of_the_group() -> None:
    settings = small(lr=0.1, weight_decay=0.5, inner=Adam(weight_decay=0.3), residual=None)
    parameter, optimizer = only(settings)
    before = parameter.detach().clone()
    parameter.grad = torch.zeros(6, 9, dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), before * 0.95)


def test_what_is_projected_and_what_is_not() -> None:
    gpt = GPTSettings(width=128, depth=1, heads=4).build({"vocab_size": 256, "context": 16})
    names = {p: name for name, p in gpt.named_parameters()}
    projected, dense = ([names[p] for g in o.param_groups for p in g["params"]] for o in Projected().build(gpt))
    assert projected == [f"blocks.0.{part}.weight" for part in ("attention.qkv", "attention.out", "up", "down")]
    assert sorted(dense) == ["embedding.weight", "head.weight"]
    with_head, _ = Projected(aside=()).build(gpt)
    assert any(gpt.head.weight is parameter for parameter in with_head.param_groups[0]["params"])
    with pytest.raises(SettingError, match=r"GPT has no hidden matrices whose smaller side is at least min_size=129"):
        Projected(min_size=129).build(gpt)


def test_kernels_are_matrices() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 2))
    settings = small(ratio=0.5)
    optimizer = settings.build(network)[0]
    network(torch.randn(4, 3, 5, 5)).square().mean().backward()
    optimizer.step()
    (parameter,) = optimizer.state
    assert parameter is network[1].weight
    assert optimizer.state[parameter]["basis"].shape == (8, 4)
    assert optimizer.state[parameter]["inner"]["exp_avg"].shape == (4, 72)


def state_ratio(width: int, **settings: Any) -> float:
    taken = []
    for optim in (Projected(**settings), AdamW()):
        gpt = GPTSettings(width=width, depth=3, heads=4).build({"vocab_size": 256, "context": 16})
        optimizers = optim.build(gpt)
        for parameter in gpt.parameters():
            parameter.grad = torch.ones_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
        taken.append(optimizer_bytes(*optimizers))
    return taken[0] / taken[1]


def test_state_takes_at_most_two_fifths_of_adamws_everything_counted() -> None:
    assert state_ratio(128) <= 0.40
    assert state_ratio(192) <= 0.40
    assert 0.40 < state_ratio(128, residual="feedback") < 0.9  # the buffer of full size
    assert state_ratio(128, inner=SGD(momentum=0.0)) < 0.06


def optimizers_state(optimizers: list[torch.optim.Optimizer], network: nn.Module) -> Any:
    plain, tensors = encode(NamedState(network, optimizers).state_dict(), "optimizer")
    return decode(plain, safetensors.torch.load(safetensors.torch.save(tensors)))


@INNERS
@PROJECTORS
@pytest.mark.parametrize("residual", ["scaled", "feedback"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_its_state_without_pickle_goes_on_bit_for_bit(
    inner: str, projector: str, residual: str, dtype: torch.dtype
) -> None:
    given = {"inner": INNER[inner].make(), "projector": projector, "residual": residual, "every": 3, "lazy": 0.5}
    settings = small(lr=0.01, ratio=0.5, **given)
    one = model(dtype)
    ones = settings.build(one)
    for step in range(8):
        gradients(one, step)
        for optimizer in ones:
            optimizer.step()
    other = model(dtype)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    others = settings.build(other)
    NamedState(other, others).load_state_dict(optimizers_state(ones, one))
    for step in range(8, 16):
        for network, optimizers in ((one, ones), (other, others)):
            gradients(network, step)
            for optimizer in optimizers:
                optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_torchs_own_state_dict_and_a_copy_go_on_bit_for_bit() -> None:
    settings = small(lr=0.01, ratio=0.5, every=3)
    parameter, optimizer = only(settings)
    draws = [torch.randn(6, 9, generator=generator(4, step), dtype=torch.float64) for step in range(10)]

    def go(p: nn.Parameter, o: torch.optim.Optimizer, given: list[Tensor]) -> Tensor:
        for gradient in given:
            p.grad = gradient.clone()
            o.step()
        return p.detach().clone()

    go(parameter, optimizer, draws[:5])
    copied, copied_optimizer = copy.deepcopy((parameter, optimizer))
    loaded, loaded_optimizer = only(settings)
    loaded.data = parameter.detach().clone()
    loaded_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    ends = [
        go(p, o, draws[5:]) for p, o in ((parameter, optimizer), (copied, copied_optimizer), (loaded, loaded_optimizer))
    ]
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


def test_a_state_of_another_rank_is_refused() -> None:
    parameter, optimizer = only(small(ratio=0.5))
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    other, other_optimizer = only(small(ratio=0.2))
    other_optimizer.load_state_dict(optimizer.state_dict())
    other.grad = torch.ones_like(other)
    with pytest.raises(SettingError, match="ratio=0.2 is rank 1 .* has rank 3; go on with the ratio"):
        other_optimizer.step()


def test_a_group_may_come_later() -> None:
    settings = small(lr=0.01, ratio=0.5)
    parameter, optimizer = only(settings)
    later = nn.Parameter(torch.ones(5, 4, dtype=torch.float64))
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.add_param_group({"params": [later], "lr": 0.5})
    later.grad = torch.ones_like(later)
    optimizer.step()
    assert float(later.detach()[0, 0]) == pytest.approx(0.75, abs=1e-4)  # a step of 1 along ones/2


@PROJECTORS
def test_two_runs_are_one_and_the_global_generator_is_left_alone(projector: str) -> None:
    torch.manual_seed(5)
    settings = small(projector=projector, every=2, ratio=0.5)
    before = torch.get_rng_state()
    one = ran(settings, network=copy.deepcopy(MODEL))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    other = ran(settings, network=copy.deepcopy(MODEL))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


MODEL = model()


def test_random_directions_follow_from_the_seed_the_parameter_and_the_refresh() -> None:
    bases = []
    for seed in (0, 1):
        network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
        optimizer = small(projector="random", every=1, seed=seed).build(network)[0]
        for _ in range(2):
            for parameter in network.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            bases += [optimizer.state[layer.weight]["basis"].clone() for layer in network[:2]]
    assert all(float(overlap(p, q)) < 0.99 for i, p in enumerate(bases) for q in bases[:i])


def test_lazy_refreshing_waits_longer_while_the_directions_stay() -> None:
    parameter, optimizer = only(small(every=2, lazy=0.9, ratio=0.34))
    same = torch.randn(6, 9, generator=generator(0, "g"), dtype=torch.float64)
    counts = []
    for _ in range(50):
        parameter.grad = same.clone()
        optimizer.step()
        counts.append(optimizer.state[parameter]["refreshes"])
    refreshed = [step for step in range(50) if counts[step] != ([0, *counts])[step]]
    assert refreshed == [0, 2, 6, 14, 30, 46]  # twice as long each time, up to 8 times
    turned = torch.linalg.qr(torch.randn(6, 6, generator=generator(1, "q"), dtype=torch.float64)).Q @ same
    while optimizer.state[parameter]["refreshes"] == counts[-1]:
        parameter.grad = turned.flip(0)
        optimizer.step()
    assert optimizer.state[parameter]["interval"] == 2


def test_an_inner_mean_stands_for_the_same_weights_after_a_refresh() -> None:
    parameter, optimizer = only(small(inner=SGD(momentum=0.9), every=1, ratio=0.5, residual=None, lr=1.0))
    low = torch.randn(6, 3, generator=generator(0, "l"), dtype=torch.float64)
    total = torch.zeros(6, 9, dtype=torch.float64)
    for step in range(6):  # gradients of rank 3 in one subspace, whose leading directions change their order
        right = torch.randn(9, 3, generator=generator(0, step), dtype=torch.float64)
        parameter.grad = low @ right.T
        total = 0.9 * total + parameter.grad
        optimizer.step()
        state = optimizer.state[parameter]
        torch.testing.assert_close(state["basis"] @ state["inner"]["momentum_buffer"], total)


def test_rules_the_decay_by_layer_and_frozen_parameters_hold_for_both() -> None:
    network = model()
    rules = (Rule(pattern="0.*", rate=0.5), Rule(pattern="2.bias", frozen=True))
    optimizers = small(lr=0.1, inner=AdamW(lr=0.2), rules=rules, layer_decay=0.5).build(network)
    rate = {p: g["lr"] for o in optimizers for g in o.param_groups for p in g["params"]}
    assert rate[network[0].weight] == pytest.approx(0.1 * 0.5 * 0.25)
    assert rate[network[2].weight] == pytest.approx(0.1 * 0.5)
    assert rate[network[4].weight] == pytest.approx(0.2)
    assert network[2].bias not in rate


def test_the_momentum_can_be_cycled() -> None:
    parameter, optimizer = only(small(lr=1.0, inner=SGD(momentum=0.9), ratio=1.0, residual=None))
    check_momentum([optimizer])
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    set_momentum([optimizer], 0.5)
    before = parameter.detach().clone()
    optimizer.step()
    torch.testing.assert_close(before - parameter.detach(), torch.full_like(before, 1.5))
    check_momentum([only(small())[1]])
    with pytest.raises(SettingError, match="Projected has none"):
        check_momentum([only(small(inner=Adagrad()))[1]])


def test_nan_gives_nan_as_with_any_optimizer_and_only_there() -> None:
    network = model()
    optimizers = small().build(network)
    gradients(network, 0)
    assert network[0].weight.grad is not None
    network[0].weight.grad[0, 0] = math.nan
    for optimizer in optimizers:
        optimizer.step()
    assert not bool(torch.isfinite(network[0].weight).any())
    assert bool(torch.isfinite(network[2].weight).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sixteen_bits_are_computed_in_full(dtype: torch.dtype) -> None:
    network = model(dtype)
    optimizers = small(residual="feedback", ratio=0.5).build(network)
    gradients(network, 0)
    optimizers[0].step()
    kept = optimizers[0].state[network[0].weight]
    assert {kept[key].dtype for key in ("basis", "error")} | {kept["inner"]["exp_avg"].dtype} == {torch.float32}
    assert network[0].weight.dtype == dtype and bool(torch.isfinite(network[0].weight).all())


def test_it_is_reached_from_the_command_line() -> None:
    words = ["optim=projected", "optim.inner=lion", "optim.inner.lr=2e-4", "optim.residual=none", "optim.every=1"]
    optim = override(recipe(), words).optim
    assert isinstance(optim, Projected)
    assert isinstance(optim.inner, Lion) and optim.inner.lr == 2e-4 and (optim.residual, optim.every) == (None, 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inner": "lino"}, r"unknown inner optimizer 'lino' \(did you mean 'lion'\?\); known: adamw, adam, sgd"),
        ({"inner": Muon()}, r"Muon\(.* cannot step within a projection; use one of adamw, adam, sgd, adagrad"),
        ({"inner": ScheduleFreeAdamW()}, r"cannot step within a projection"),
        ({"inner": SGD(form="guide")}, r"form=guide keeps the rate in its velocity"),
        ({"ratio": 0.0}, r"ratio=0.0 is refused"),
        ({"ratio": 1.5}, r"ratio=1.5 is refused"),
        ({"limit": 1.0}, r"limit=1.0 is refused"),
        ({"lazy": 2.0}, r"lazy=2.0 is refused"),
        ({"projector": "svd"}, r"projector='svd' is refused"),
        ({"residual": None, "limit": 1.2}, r"limit=1.2 has no effect with residual=none"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Projected(**given)


@PROJECTORS
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_centered_rmsprop_survives_refreshes_of_gradients_that_hardly_vary(projector: str, momentum: float) -> None:
    parameter, optimizer = only(
        small(inner=RMSprop(centered=True, momentum=momentum), projector=projector, ratio=1.0, every=10)
    )
    first, second = (torch.randn(6, 9, generator=generator(7, draw), dtype=torch.float64) for draw in range(2))
    for step in range(60):
        drawn = torch.randn(6, 9, generator=generator(8, step), dtype=torch.float64)
        parameter.grad = (first if step < 15 else first + second) + 0.05 * drawn
        optimizer.step()
    assert torch.isfinite(parameter).all()
