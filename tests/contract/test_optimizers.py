"""One battery over the table of optimizers."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers import OF_SMALL_MODELS
from torch import nn

from lehr.base.errors import SettingError
from lehr.checkpoint.encode import decode, encode
from lehr.optim import OPTIMIZERS, Rule
from lehr.optim.state import NamedState

PACKAGES = {"quant": "bitsandbytes"}
"""What an extra brings; rows that need one which is not there are skipped by name."""
FASTER = {"lion": 0.003, "schedule_free_sgd": 0.05, "projected": 0.01}
"""Rates for this small problem, where the default is meant for larger ones."""
SPARSE = ("sgd", "adagrad")
SINGLE = ("adamw_8bit",)
"""Rows that do not take double precision."""


def rows(names: Any = OPTIMIZERS) -> list[Any]:
    marked = []
    for row in (OPTIMIZERS[name] for name in names):
        missing = row.needs and importlib.util.find_spec(PACKAGES[row.needs]) is None
        marks = [pytest.mark.skip(reason=f"{row.name} needs lehr[{row.needs}]")] if missing else []
        marked.append(pytest.param(row, id=row.name, marks=marks))
    return marked


ROWS = pytest.mark.parametrize("row", rows())
EVERY = pytest.mark.parametrize("row", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
"""For what needs no extra: settings are made without it."""


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)


def build(
    row: Any, dtype: torch.dtype = torch.float32, **settings: Any
) -> tuple[nn.Sequential, list[torch.optim.Optimizer]]:
    model = network(dtype)
    return model, build_over(row, model, **settings)


def build_over(row: Any, model: nn.Module, **settings: Any) -> list[torch.optim.Optimizer]:
    fast = {"lr": FASTER[row.name]} if row.name in FASTER else {}
    given = OF_SMALL_MODELS.get(row.name, {}) | fast | settings
    made: list[torch.optim.Optimizer] = row.make(**given).build(model)
    return made


def step(model: nn.Module, optimizers: list[torch.optim.Optimizer], seed: int) -> float:
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(seed)).to(next(model.parameters()).dtype)
    loss = (model(x)[:, 0] - x.sum(dim=1)).square().mean()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def groups(optimizers: list[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


@ROWS
def test_descends(row: Any) -> None:
    model, optimizers = build(row)
    losses = [step(model, optimizers, seed) for seed in range(200)]
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])


@ROWS
def test_state_without_pickle_goes_on_bit_for_bit(row: Any) -> None:
    model, optimizers = build(row)
    rates = [(group, group["lr"]) for group in groups(optimizers)]
    kept = NamedState(model, optimizers)
    for seed in range(12):  # SOAP brings its bases up to date at the tenth
        for group, base in rates:
            group["lr"] = base / (1 + seed)
        step(model, optimizers, seed)
    plain, tensors = encode(kept.state_dict(), "optimizer")
    stored = safetensors.torch.load(safetensors.torch.save(tensors))
    weights = copy.deepcopy(model.state_dict())
    for seed in range(12, 24):
        step(model, optimizers, seed)
    other, others = build(row)
    other.load_state_dict(weights)
    NamedState(other, others).load_state_dict(decode(plain, stored))
    for group in groups(others):
        group["lr"] /= 12
    for seed in range(12, 24):
        step(other, others, seed)
    assert same(model, other)


@ROWS
def test_takes_rates_group_by_group(row: Any) -> None:
    model, optimizers = build(row)
    for group in groups(optimizers):
        group["lr"] = 0.0
    before = copy.deepcopy(model.state_dict())
    for seed in range(3):
        step(model, optimizers, seed)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@ROWS
def test_a_rule_keeps_its_share_of_the_rate_under_any_schedule(row: Any) -> None:
    model, optimizers = build(row, rules=(Rule(pattern="2.*", rate=0.125),))
    first = {id(p) for p in model[2].parameters()}
    rates = [(group, group["lr"]) for group in groups(optimizers)]
    plain = {id(p): g["lr"] for g in groups(build_over(row, model)) for p in g["params"]}
    for factor in (0.5, 1.0, 0.01):
        for group, base in rates:  # what the loop does
            group["lr"] = base * factor
        for group, _ in rates:
            for parameter in group["params"]:
                share = 0.125 if id(parameter) in first else 1.0
                assert group["lr"] == pytest.approx(plain[id(parameter)] * share * factor)


@ROWS
def test_a_frozen_parameter_has_neither_group_nor_state_and_stays(row: Any) -> None:
    model, optimizers = build(row, rules=(Rule(module="Linear", frozen=True), Rule(depth=(1, -1), frozen=False)))
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["0.weight", "0.bias"]
    kept = NamedState(model, optimizers)
    before = copy.deepcopy(model[0].state_dict())
    for seed in range(3):
        step(model, optimizers, seed)
    assert all(torch.equal(before[name], value) for name, value in model[0].state_dict().items())
    assert sorted(kept.state_dict()) == ["2.bias", "2.weight", "4.bias", "4.weight"]


@ROWS
def test_layers_below_learn_at_lower_rates(row: Any) -> None:
    model, optimizers = build(row, layer_decay=0.5)
    plain = {id(p): g["lr"] for g in groups(build_over(row, model)) for p in g["params"]}
    rate = {id(p): g["lr"] / plain[id(p)] for g in groups(optimizers) for p in g["params"]}
    assert [rate[id(layer.weight)] for layer in (model[0], model[2], model[4])] == pytest.approx([0.25, 0.5, 1.0])


@ROWS
def test_zero_gradients_do_no_harm(row: Any) -> None:
    model, optimizers = build(row)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(2):
        for optimizer in optimizers:
            optimizer.step()
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@ROWS
def test_a_parameter_without_a_gradient_stays_and_the_others_move(row: Any) -> None:
    model, optimizers = build(row)
    step(model, optimizers, 0)
    step(model, optimizers, 1)
    before = copy.deepcopy(model.state_dict())
    for name, parameter in model.named_parameters():
        parameter.grad = None if name == "2.weight" else torch.full_like(parameter, 0.1)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert moved == [name for name in before if name != "2.weight"]
    step(model, optimizers, 2)
    assert not torch.equal(model[2].weight, before["2.weight"])


@ROWS
def test_a_first_gradient_may_come_late_and_the_state_of_then_is_saved(row: Any) -> None:
    """As with a block that is thawed in the middle of a run."""
    model, optimizers = build(row)
    kept = NamedState(model, optimizers)
    for seed in range(3):
        model[2].requires_grad_(seed > 1)
        saved = decode(*encode(kept.state_dict(), "optimizer"))
        weights = copy.deepcopy(model.state_dict())
        step(model, optimizers, seed)
    other, others = build(row)
    other.load_state_dict(weights)
    NamedState(other, others).load_state_dict(saved)
    step(other, others, 2)
    assert same(model, other)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@ROWS
def test_double_precision(row: Any) -> None:
    if row.name in SINGLE:
        with pytest.raises(SettingError, match="takes float32, bfloat16 and float16, but the model has torch.float64"):
            build(row, torch.float64)
        return
    model, optimizers = build(row, torch.float64)
    losses = [step(model, optimizers, seed) for seed in range(30)]
    assert losses[-1] < losses[0]
    assert all(p.dtype == torch.float64 for p in model.parameters())


@ROWS
def test_parameters_in_bfloat16(row: Any) -> None:
    model, optimizers = build(row, torch.bfloat16)
    losses = [step(model, optimizers, seed) for seed in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])
    assert all(p.dtype == torch.bfloat16 and bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.parametrize("row", rows([name for name in OPTIMIZERS if name not in SINGLE]))
def test_a_closure_is_called_with_gradients_on(row: Any) -> None:
    model, optimizers = build(row)

    def closure() -> float:
        loss = model(torch.ones(2, 4)).square().mean()
        loss.backward()
        return loss.item()

    assert all(float(optimizer.step(closure)) >= 0 for optimizer in optimizers)  # type: ignore[arg-type]


class Words(nn.Module):
    """An embedding with sparse gradients, and a layer after it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.EmbeddingBag(6, 4, mode="mean", sparse=True)
        self.hidden = nn.Linear(4, 4)
        self.out = nn.Linear(4, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.hidden(self.table(ids)))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@EVERY
def test_sparse_gradients_are_taken_or_refused_when_the_optimizer_is_built(row: Any) -> None:
    model = Words()
    if row.name not in SPARSE:
        with pytest.raises(SettingError, match=r"cannot take sparse gradients, but the embedding 'table' has sparse=T"):
            row.make().build(model)
        return
    optimizers = row.make(lr=0.1, weight_decay=0.01).build(model)
    ids = torch.tensor([[0, 1], [2, 3]])
    losses = []
    untouched = model.table.weight[4:].detach().clone()
    for _ in range(20):
        loss = (model(ids) - 1).square().mean()
        loss.backward()
        assert model.table.weight.grad.is_sparse  # type: ignore[union-attr]
        optimizers[0].step()
        optimizers[0].zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert torch.equal(model.table.weight[4:], untouched)


@pytest.mark.slow
@pytest.mark.parametrize("row", rows([name for name in OPTIMIZERS if name != "adamw_8bit"]))
def test_the_step_can_be_compiled(row: Any) -> None:
    """Traced and run as graphs; what a compiler makes of them is torch's. The 8-bit kernels are no graph."""
    torch.compiler.reset()
    plain, compiled = build(row), build(row)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch")
        calls = [torch.compile(optimizer.step, backend="aot_eager") for optimizer in compiled[1]]
        for seed in range(3):
            step(*plain, seed)
            step(compiled[0], [], seed)
            for call, optimizer in zip(calls, compiled[1], strict=True):
                call()
                optimizer.zero_grad()
    for p, q in zip(plain[0].parameters(), compiled[0].parameters(), strict=True):
        torch.testing.assert_close(p, q)


@EVERY
def test_has_a_summary_and_says_when_to_choose_it(row: Any) -> None:
    assert row.summary and row.choose
    assert not row.choose.endswith(".") and not row.choose.lower().startswith("if ")


@EVERY
def test_settings_refuse_nonsense(row: Any) -> None:
    fields = row.make.model_fields
    wrong: list[dict[str, Any]] = [{"lr": -1.0}, {"lr": 0.0}, {"weight_decay": -0.1}]
    wrong += [{"layer_decay": 0.0}, {"layer_decay": 1.1}, {"rules": ({"pattern": "*"},)}, {"rules": ({"rate": 2},)}]
    wrong += [{"betas": b} for b in ((0.9, 1.0), (-0.1, 0.9), (0.9,)) if "betas" in fields]
    wrong += [{name: 1.0} for name in ("momentum", "alpha", "mix", "beta2") if name in fields]
    wrong += [{name: 0.0} for name in ("eps", "every", "max_size", "min_size") if name in fields]
    for given in wrong:
        with pytest.raises(SettingError):
            row.make(**given)
    with pytest.raises(SettingError, match="greater than 0"):
        row.make(lr=-1.0)


@pytest.mark.parametrize("row", [row for row in OPTIMIZERS.values() if row.needs], ids=lambda row: row.name)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, PACKAGES[row.needs], None)
    with pytest.raises(SettingError, match=rf"optim={row.name} needs .* pip install 'lehr\[{row.needs}\]'"):
        row.make().build(network())
