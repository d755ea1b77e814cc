"""New parameters in the groups of those whose place they take; a product decayed as one matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lehr.lowrank import LowRankLinear
from lehr.optim import AdamW, Muon
from lehr.optim.exchange import decay_products, exchange_parameters


def put(model: nn.Module, optimizers: list[torch.optim.Optimizer], name: str, rank: int, **how: Any) -> LowRankLinear:
    old = model.get_submodule(name)
    before = dict(old.named_parameters())
    new = LowRankLinear.from_linear(old, rank)  # type: ignore[arg-type]
    setattr(model, name, new)
    exchange_parameters(optimizers, before, dict(new.named_parameters()), factors=True, **how)
    return new


def ids(group: dict[str, list[Tensor]]) -> set[int]:
    return {id(p) for p in group["params"]}


@pytest.mark.parametrize("frobenius", [False, True])
def test_factors_join_the_group_of_their_matrix_and_nothing_else_moves(frobenius: bool) -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 4))
    optimizers = AdamW(lr=0.1, weight_decay=0.5).build(model)
    old, before = model[0].weight, [ids(group) for group in optimizers[0].param_groups]
    new = put(model, optimizers, "0", 4, frobenius=frobenius)
    groups = optimizers[0].param_groups
    held = [id(p) for group in groups for p in group["params"]]
    assert id(old) not in held
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    home = next(group for group in groups if id(new.U) in ids(group))
    assert id(new.V) in ids(home)
    assert (home["weight_decay"], home.get("frobenius")) == ((0.0, 0.5) if frobenius else (0.5, None))
    assert home["lr"] == 0.1
    assert ids(groups[1]) == before[1], "biases and norms stay where they are"


def test_a_matrix_of_muon_is_followed_in_muon() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 4))
    muon, adamw = Muon().build(model)
    first, second = put(model, [muon, adamw], "0", 4), put(model, [muon, adamw], "1", 4)
    assert [(len(g["params"]), g.get("factors")) for g in muon.param_groups] == [(4, True)]
    assert [id(p) for p in muon.param_groups[0]["params"]] == [id(p) for m in (first, second) for p in (m.U, m.V)]


def test_factors_have_a_rate_of_their_own_but_not_where_their_product_is_moved() -> None:
    def wide() -> nn.Sequential:
        return nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 4))

    model = wide()
    optimizers = AdamW(weight_decay=0.5).build(model)
    new = put(model, optimizers, "0", 4, factor_rate=3.0)
    home = next(group for group in optimizers[0].param_groups if id(new.U) in ids(group))
    assert (home["factor_rate"], len(home["params"])) == (3.0, 2)
    before = dict(new.named_parameters())
    model[0] = new.to_dense()
    exchange_parameters(optimizers, before, dict(model[0].named_parameters()))
    assert not any("factor_rate" in group for group in optimizers[0].param_groups)
    model = wide()
    muon, adamw = Muon().build(model)
    put(model, [muon, adamw], "0", 4, factor_rate=3.0)
    assert not any("factor_rate" in group for o in (muon, adamw) for group in o.param_groups)


def test_a_group_without_parameters_is_gone_and_back_again_for_a_dense_layer() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False))
    optimizers = AdamW(weight_decay=0.5).build(model)
    new = put(model, optimizers, "0", 2, frobenius=True)
    assert [g["weight_decay"] for g in optimizers[0].param_groups] == [0.0]
    before = dict(new.named_parameters())
    model[0] = new.to_dense()
    exchange_parameters(optimizers, before, dict(model[0].named_parameters()))
    assert [(g["weight_decay"], "frobenius" in g) for g in optimizers[0].param_groups] == [(0.5, False)]
    assert optimizers[0].param_groups[0]["params"] == [model[0].weight]


def test_the_state_of_what_is_gone_is_gone() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    optimizers = AdamW().build(model)
    model(torch.ones(1, 8)).sum().backward()
    optimizers[0].step()
    old = model[0].weight
    put(model, optimizers, "0", 2)
    assert old not in optimizers[0].state
    assert model[0].bias in optimizers[0].state, "the bias is the same parameter, and goes on"


def test_decay_of_the_product_is_the_gradient_of_its_squared_norm() -> None:
    generator = torch.Generator().manual_seed(0)
    U, V = (torch.randn(n, 2, generator=generator, dtype=torch.float64, requires_grad=True) for n in (5, 4))
    expected = torch.autograd.grad(0.5 * (U @ V.T).square().sum(), [U, V])
    optimizer = torch.optim.SGD([{"params": [U, V], "frobenius": 0.3}], lr=0.1)
    before = U.detach().clone(), V.detach().clone()
    decay_products(optimizer.param_groups)
    for now, then, gradient in zip((U, V), before, expected, strict=True):
        torch.testing.assert_close(now.detach(), then - 0.1 * 0.3 * gradient)
