"""Gradients of low rank: what the optimizer gets, where the guide's own hook fails, and what is still withheld."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import points, recipe, run_steps, weights
from torch import Tensor, nn

import lehr
from lehr.base.durations import RunLength
from lehr.base.errors import NonFiniteError, SettingError
from lehr.base.protocols import Place, RunContext
from lehr.base.seeds import generator
from lehr.base.settings import override
from lehr.lowrank import guide
from lehr.training.methods import METHODS, StabilizeGradients
from lehr.training.methods.stabilize import StabilizeGradientsMethod, stabilized

HERE = Place(step=0, epoch=0, total_steps=10)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 80), nn.LayerNorm(80), nn.Linear(80, 100), nn.Tanh(), nn.Linear(100, 3))


def built(settings: StabilizeGradients, model: nn.Module, seed: int = 0) -> StabilizeGradientsMethod:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = settings.build(RunContext(model=model, run=RunLength(10), optimizers=[optimizer], seed=seed))
    assert isinstance(method, StabilizeGradientsMethod)
    return method


def low_rank(m: int, n: int, rank: int, noise: float = 0.0, seed: int = 0) -> Tensor:
    left, right = (torch.randn(k, rank, generator=generator(seed, "stabilize", k)) for k in (m, n))
    return left @ right.T + noise * torch.randn(m, n, generator=generator(seed, "noise"))


def ranks(settings: StabilizeGradients, shape: tuple[int, ...] = (200, 120)) -> int:
    """Return the rank of a random gradient after the method."""
    layer = nn.Linear(shape[1], shape[0], bias=False)
    layer.weight.grad = torch.randn(shape, generator=generator(0, "g"))
    built(settings, layer).grads_ready(layer, HERE)
    return int(torch.linalg.matrix_rank(layer.weight.grad))


@pytest.mark.parametrize(
    ("given", "rank"),
    [
        ({"preset": "conservative"}, 18 + 6),
        ({}, 12),
        ({"preset": "balanced"}, 12),
        ({"preset": "aggressive"}, 9),
        ({"preset": "aggressive", "ratio": 0.5}, 60),
        ({"preset": "conservative", "residual": 0}, 18),
        ({"residual": 2, "balance": "row_norm"}, 24),
    ],
)
def test_presets_and_what_replaces_them(given: dict[str, Any], rank: int) -> None:
    """Of 120 directions."""
    assert ranks(StabilizeGradients(**given)) == rank


def test_what_the_optimizer_gets_in_a_run_is_of_low_rank_and_the_rest_is_as_it_was(tmp_path: Path) -> None:
    seen: dict[str, list[Tensor]] = {}
    for name, methods in (("with", (StabilizeGradients(ratio=0.03),)), ("without", ())):
        made = recipe(model=network, methods=methods, clip=None, steps=1, schedule="constant")
        trainer = lehr.Trainer(made, run_dir=tmp_path / name)
        update = trainer.loop.update
        model = trainer.model
        update.steps = [
            lambda name=name, model=model: seen.setdefault(name, [p.grad.clone() for p in model.parameters()])
        ]
        trainer.fit()
    for place, (changed, plain) in enumerate(zip(seen["with"], seen["without"], strict=True)):
        if place == 4:  # the weight of 100 x 80
            left = torch.linalg.svdvals(plain.double())[2:].square().sum().sqrt()
            assert torch.linalg.matrix_rank(changed) == 2 < torch.linalg.matrix_rank(plain)
            assert float((changed - plain).norm()) == pytest.approx(float(left), rel=0.05)
        else:
            assert torch.equal(changed, plain)


def test_kernels_are_matrices_and_small_matrices_are_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(8, 64, 3, bias=False), nn.Conv2d(2, 64, 3, bias=False))
    method = built(StabilizeGradients(), model)
    for layer in model:
        layer.weight.grad = torch.randn(layer.weight.shape, generator=generator(0, "g"))
    before = model[1].weight.grad.clone()
    method.grads_ready(model, HERE)
    assert torch.linalg.matrix_rank(model[0].weight.grad.flatten(1)) == 6
    assert torch.equal(model[1].weight.grad, before)


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_it_is_proportional_to_the_gradient_where_the_guides_hook_is_not(scale: float) -> None:
    """Defect 1: singular values go in twice."""
    G = low_rank(100, 80, 3, noise=0.1)
    ours = stabilized(scale * G, 8)[0]
    torch.testing.assert_close(ours / scale, stabilized(G, 8)[0], rtol=1e-4, atol=1e-4)
    theirs = [guide.method_1(c * G, 8, generator(0, "guide")) for c in (1.0, 2.0)]
    assert float(theirs[1].norm() / theirs[0].norm()) == pytest.approx(4, rel=1e-3)


def test_it_keeps_a_gradient_of_low_rank_where_the_guides_hook_loses_it() -> None:
    G = low_rank(100, 80, 3)
    assert float((stabilized(G, 8)[0] - G).norm() / G.norm()) < 1e-5
    assert float((guide.dbc(G, 8, generator(0, "guide")) - G).norm() / G.norm()) > 0.9


def test_a_gradient_behind_a_layer_norm_survives_where_the_guides_hook_blows_it_up() -> None:
    """Defect 2: its rows sum to about 0, and the guide divides by that sum."""
    model = network()
    x = torch.randn(64, 4, generator=generator(0, "x"))
    model(x).square().mean().backward()
    G = model[2].weight.grad
    assert G is not None
    assert float((G.sum(dim=1).abs() / G.norm(dim=1)).max()) < 1e-3
    best = torch.linalg.svdvals(G.double())[8:].square().sum().sqrt()
    theirs = guide.dbc(G, 8, generator(0, "guide"))
    assert float((theirs - G).norm()) > 10 * float(G.norm())
    before = G.clone()
    built(StabilizeGradients(), model).grads_ready(model, HERE)
    assert float((G - before).norm()) <= 1.05 * float(best) + 1e-6


def test_a_small_matrix_is_no_zero_where_the_guides_trick_makes_one() -> None:
    """Defect 3: below a side of 20."""
    G = low_rank(12, 12, 2)
    assert bool((guide.second_round(G, guide.rank_of(G, 0.1), generator(0, "guide")) == 0).all())
    layer = nn.Linear(12, 12, bias=False)
    layer.weight.grad = G.clone()
    built(StabilizeGradients(min_size=2), layer).grads_ready(layer, HERE)
    assert float(layer.weight.grad.norm()) > 0.5 * float(G.norm())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_still_withheld(tmp_path: Path, value: float) -> None:
    """Defect 4: the guide's hook makes numbers of it, and the step is made."""
    x, y = points()
    x[5, 2] = value
    data = lehr.Data(train=(x, y), batch_size=8)
    made = recipe(model=network, data=data, methods=("stabilize_gradients",), steps=6)
    with pytest.raises(NonFiniteError):
        lehr.train(made, run_dir=tmp_path / "run")


def test_a_gradient_that_is_not_finite_stays_so_and_leaves_the_directions_alone() -> None:
    """As where an accelerator's updates are masked on the device, and the methods are called all the same."""
    G = low_rank(100, 80, 3, noise=0.1)
    bad = G.clone()
    bad[3, 4] = math.inf
    made, start = stabilized(bad, 8)
    assert not bool(torch.isfinite(made).any()) and bool(torch.isfinite(start).all())
    torch.testing.assert_close(start.mT @ start, torch.eye(start.shape[1]))  # directions, though of nothing
    good, start = stabilized(G, 8, start=start)
    good, start = stabilized(G, 8, start=start)
    assert float((good - G).norm()) < 1.1 * float(torch.linalg.svdvals(G)[8:].square().sum().sqrt())
    made, after = stabilized(bad, 8, start=start)
    assert torch.equal(after, start)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sixteen_bits_are_computed_in_full(dtype: torch.dtype) -> None:
    layer = nn.Linear(80, 100, bias=False).to(dtype)
    layer.weight.grad = (300 * low_rank(100, 80, 3)).to(dtype)  # of which squares would leave fp16's range
    before = layer.weight.grad.float()
    built(StabilizeGradients(), layer).grads_ready(layer, HERE)
    assert layer.weight.grad.dtype == dtype
    assert float((layer.weight.grad.float() - before).norm()) < 0.01 * float(before.norm())


def test_balanced_by_sums_of_rows_as_the_guide_and_by_norms() -> None:
    """Row by row of very different sizes, the small rows are kept only where rows are balanced."""
    sizes = torch.logspace(0, -4, 100)[:, None]
    G = sizes * (low_rank(100, 80, 20) + 1)
    errors = {}
    for balance in (None, "row_norm", "row_sum"):
        layer = nn.Linear(80, 100, bias=False)
        layer.weight.grad = G.clone()
        built(StabilizeGradients(balance=balance), layer).grads_ready(layer, HERE)
        errors[balance] = ((layer.weight.grad - G).norm(dim=1) / G.norm(dim=1)).mean().item()
        total = float((layer.weight.grad - G).norm())
        if balance is None:
            best = total
        assert total >= 0.999 * best  # in the plain norm nothing is better than no balance
    assert errors["row_norm"] < errors[None] and errors["row_norm"] < errors["row_sum"]


def test_the_threshold_is_the_least_size_of_a_sum_of_a_row() -> None:
    G = low_rank(100, 80, 20)
    G -= G.mean(dim=1, keepdim=True)  # sums of about 1e-5
    ends = []
    for threshold in (1e-12, 1e3):
        layer = nn.Linear(80, 100, bias=False)
        layer.weight.grad = G.clone()
        built(StabilizeGradients(balance="row_sum", threshold=threshold), layer).grads_ready(layer, HERE)
        ends.append(layer.weight.grad.clone())
    best = float(torch.linalg.svdvals(G)[8:].square().sum().sqrt())
    assert float((ends[1] - G).norm()) < 1.05 * best  # all rows alike
    assert float((ends[0] - G).norm()) > 1.1 * best


def test_it_is_deterministic_the_same_on_all_ranks_and_leaves_the_global_generator_alone() -> None:
    ends = []
    for rank in (0, 1):
        torch.manual_seed(rank)
        layer = nn.Linear(160, 200, bias=False)
        before = torch.get_rng_state()
        method = StabilizeGradients().build(
            RunContext(model=layer, run=RunLength(10), optimizers=[], seed=3, rank=rank, world=2)
        )
        for step in range(3):
            layer.weight.grad = low_rank(200, 160, 5, noise=0.3, seed=step)
            method.grads_ready(layer, HERE)  # type: ignore[union-attr]
        assert torch.equal(torch.get_rng_state(), before)
        ends.append(layer.weight.grad.clone())
    assert torch.equal(*ends)


def test_the_directions_follow_the_gradient_and_go_on_bit_for_bit() -> None:
    """Spectra of gradients change little from step to step; one pass from the last directions is nearly the best."""
    layer, other = nn.Linear(160, 200, bias=False), nn.Linear(160, 200, bias=False)
    method, resumed = built(StabilizeGradients(), layer), built(StabilizeGradients(), other)
    for step in range(6):
        G = low_rank(200, 160, 8) + low_rank(200, 160, 12, noise=0.1, seed=10 + step) / 20
        layer.weight.grad = G.clone()
        if step == 3:
            resumed.load_state_dict({name: value.clone() for name, value in method.state_dict().items()})
        method.grads_ready(layer, HERE)
        best = torch.linalg.svdvals(G)[16:].square().sum().sqrt()
        assert float((layer.weight.grad - G).norm()) < 1.15 * float(best)
        if step >= 3:
            other.weight.grad = G.clone()
            resumed.grads_ready(other, HERE)
            assert torch.equal(other.weight.grad, layer.weight.grad)
    assert set(method.state_dict()) == {"weight"}


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    made = recipe(model=network, methods=("stabilize_gradients",))
    whole = lehr.Trainer(made, run_dir=tmp_path / "whole")
    whole.fit()
    run_steps(lehr.Trainer(made, run_dir=tmp_path / "part"), 7)
    lehr.resume(tmp_path / "part", recipe=made)
    last = Path("checkpoints") / "step-00000015" / "model.safetensors"
    assert (tmp_path / "part" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()
    assert weights(whole.model)


def test_no_recipe_has_it() -> None:
    from lehr.recipes.table import RECIPES

    assert METHODS["stabilize_gradients"].make is StabilizeGradients
    for row in RECIPES.values():
        assert not any(isinstance(method, StabilizeGradients) for method in row.make()().methods)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StabilizeGradients(preset="extreme"), r"preset='extreme' is refused"),  # type: ignore[arg-type]
        (lambda: StabilizeGradients(ratio=0.0), r"ratio=0.0 is refused"),
        (lambda: StabilizeGradients(threshold=1e-6), r"threshold=1e-06 has no effect with balance=none"),
        (lambda: StabilizeGradients(balance="activation"), r"balance='activation' is refused"),  # type: ignore[arg-type]
        (lambda: built(StabilizeGradients(), nn.Linear(3, 2)), r"at least min_size=64, .*use at most 2"),
        (
            lambda: override(recipe(), ["methods=stabilize_gradients", "methods.0.min_side=3"]),
            r"no field 'min_side' \(did you mean 'min_size'\?\)",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()
