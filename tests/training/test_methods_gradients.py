"""Methods that change gradients, add penalties or threshold weights: what the optimizer and the weights get."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import Mlp, Tagger, assert_same, points, recipe, records, weights
from torch import Tensor, nn

import lehr
from lehr.base import seeds
from lehr.base.durations import RunLength
from lehr.base.errors import SettingError
from lehr.base.protocols import Place, RunContext
from lehr.base.settings import override
from lehr.losses import Supervised, cross_entropy
from lehr.optim import SGD, AdamW, Rule
from lehr.run.recipe import Evaluate, Track
from lehr.training.methods import (
    METHODS,
    AdaptiveGradientClipping,
    ClipByValue,
    ElasticNet,
    GradientCentralization,
    GradientNoise,
    L1Penalty,
    L2Penalty,
    ProximalL1,
)
from lehr.training.methods.penalty import penalized

OURS = {
    "clip_by_value": ClipByValue,
    "adaptive_gradient_clipping": AdaptiveGradientClipping,
    "gradient_noise": GradientNoise,
    "gradient_centralization": GradientCentralization,
    "l1_penalty": L1Penalty,
    "l2_penalty": L2Penalty,
    "elastic_net": ElasticNet,
    "proximal_l1": ProximalL1,
}


def double_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def made(*methods: Any, **changes: Any) -> lehr.Recipe:
    x, y = points(24)
    fields: dict[str, Any] = {
        "model": double_mlp,
        "data": lehr.Data(train=(x.double(), y), batch_size=12),
        "optim": SGD(lr=0.1, momentum=0.0),
        "schedule": "constant",
        "clip": None,
        "steps": 1,
        "metrics": (),
    }
    return recipe(**fields | {"methods": methods} | changes)


def gradients(tmp_path: Path, *methods: Any, **changes: Any) -> dict[str, Tensor]:
    """Return the gradients that the optimizer gets in the last step of a run."""
    trainer = lehr.Trainer(made(*methods, **changes), run_dir=tmp_path / f"run{len(list(tmp_path.iterdir()))}")
    update = trainer.loop.update
    steps, seen = update.steps, {}

    def look() -> None:
        for name, parameter in trainer.model.named_parameters():
            assert parameter.grad is not None
            seen[name] = parameter.grad.clone()
        for step in steps:
            step()

    update.steps = [look]
    trainer.fit()
    return seen


def test_they_are_found_by_name() -> None:
    for name, settings in OURS.items():
        assert isinstance(METHODS[name].make(), settings)
        assert isinstance(override(made(), [f"methods={name}"]).methods[0], settings)
    (noise,) = override(made(), ["methods=gradient_noise", "methods.0.eta=0.3"]).methods
    assert noise == GradientNoise(eta=0.3)


def test_clipping_by_value_sees_the_mean_of_the_whole_batch(tmp_path: Path) -> None:
    plain = gradients(tmp_path)
    limit = 0.01
    for accumulate in (1, 5):
        clipped = gradients(tmp_path, ClipByValue(limit=limit), accumulate=accumulate)
        for name, gradient in plain.items():
            assert torch.allclose(clipped[name], gradient.clamp(-limit, limit), rtol=0, atol=1e-15), name
            assert bool((gradient.abs() > limit).any())


def test_it_comes_after_clipping_by_norm(tmp_path: Path) -> None:
    plain = gradients(tmp_path)
    norm = math.sqrt(sum(float(g.square().sum()) for g in plain.values()))
    both = gradients(tmp_path, ClipByValue(limit=0.01), clip=0.1)
    for name, gradient in plain.items():
        assert torch.allclose(both[name], (gradient * 0.1 / (norm + 1e-6)).clamp(-0.01, 0.01), rtol=1e-12), name


def authors_agc(weight: Tensor, gradient: Tensor, limit: float, eps: float) -> Tensor:
    flat = gradient.reshape(len(gradient), -1) if gradient.ndim > 1 else gradient.reshape(1, -1)
    held = weight.detach().reshape(flat.shape)
    most = limit * held.norm(dim=1, keepdim=True).clamp(min=eps)
    size = flat.norm(dim=1, keepdim=True)
    return torch.where(size > most, flat * most / size, flat).reshape(gradient.shape)


@pytest.mark.parametrize(("aside", "kept"), [(None, "4."), (("0",), "0."), ((), None)])
def test_adaptive_clipping_leaves_the_output_layer_alone(tmp_path: Path, aside: Any, kept: str | None) -> None:
    plain = gradients(tmp_path)
    clipped = gradients(tmp_path, AdaptiveGradientClipping(limit=0.02, aside=aside))
    with seeds.seeded(0, "init"):
        model = double_mlp()
    for name, weight in model.named_parameters():
        if kept is not None and name.startswith(kept):
            assert torch.equal(clipped[name], plain[name])
        else:
            expected = authors_agc(weight, plain[name], 0.02, 1e-3)
            assert torch.allclose(clipped[name], expected, rtol=1e-12), name
            assert not torch.equal(clipped[name], plain[name])


def test_centralization_and_noise_in_a_run(tmp_path: Path) -> None:
    plain = gradients(tmp_path)
    central = gradients(tmp_path, GradientCentralization())
    noisy = gradients(tmp_path, GradientNoise(eta=0.04, gamma=0.55))
    for name, gradient in plain.items():
        expected = gradient - gradient.mean(dim=1, keepdim=True) if gradient.ndim == 2 else gradient
        assert torch.allclose(central[name], expected, rtol=0, atol=1e-16), name
    noise = torch.cat([(noisy[name] - plain[name]).flatten() for name in plain]) / 0.2
    assert 0.7 < float(noise.std()) < 1.3 and abs(float(noise.mean())) < 0.4  # 93 draws


def built(settings: Any, model: nn.Module, **changes: Any) -> Any:
    return settings.build(RunContext(model=model, run=RunLength(10), **changes))


def test_noise_is_the_same_in_every_process_and_another_at_each_step() -> None:
    def noise(rank: int, step: int) -> Tensor:
        model = nn.Linear(3, 3)
        model.weight.grad = torch.zeros(3, 3)
        built(GradientNoise(gamma=0.0), model, rank=rank, world=2, seed=7).grads_ready(model, Place(step, 0, 10))
        return model.weight.grad

    assert torch.equal(noise(0, 3), noise(1, 3))
    assert not torch.equal(noise(0, 3), noise(0, 4))


PENALTIES: list[tuple[Any, Callable[[Tensor], Tensor]]] = [
    (L1Penalty(amount=0.02), lambda w: 0.02 * w.abs().sum()),
    (L2Penalty(amount=0.02), lambda w: 0.02 * (w**2).sum()),
    (ElasticNet(l1=0.02, l2=0.03), lambda w: 0.02 * w.abs().sum() + 0.03 * (w**2).sum()),
]


def ragged() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids, target = torch.randint(0, 7, (8, 6), generator=generator), torch.randint(0, 5, (8, 6), generator=generator)
    target[torch.arange(6)[None] >= torch.randint(1, 7, (8,), generator=generator)[:, None]] = -1
    return ids, target


def ignoring(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return cross_entropy(output, target, ignore=-1)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("penalty", "value"), PENALTIES, ids=["l1", "l2", "elastic net"])
def test_a_penalty_is_added_once_to_the_mean_however_the_batch_is_cut(
    tmp_path: Path, penalty: Any, value: Callable[[Tensor], Tensor], accumulate: int
) -> None:
    """Microbatches count differently many tokens; the penalty does not depend on that."""
    found = gradients(
        tmp_path,
        penalty.model_copy(update={"on": ("out.weight", "emb*")}),
        model=Tagger,
        data=lehr.Data(train=ragged(), batch_size=8),
        objective=Supervised(loss=ignoring, unit="token"),
        accumulate=accumulate,
    )
    with seeds.seeded(0, "init"):
        model = Tagger()
    ids, target = ragged()
    loss = F.cross_entropy(model(ids).flatten(0, 1), target.flatten(), ignore_index=-1)
    (loss + value(model.out.weight) + value(model.embedding.weight)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(found[name], parameter.grad, rtol=0, atol=1e-14), name


def ended(tmp_path: Path, *methods: Any, **changes: Any) -> dict[str, Tensor]:
    trainer = lehr.Trainer(made(*methods, steps=6, **changes), run_dir=tmp_path / f"end{len(list(tmp_path.iterdir()))}")
    trainer.fit()
    return weights(trainer.model)


def test_the_factor_2_between_the_penalty_and_weight_decay(tmp_path: Path) -> None:
    """The guide calls them the same: with SGD the penalty's strength is half the decay, and both leave biases alone."""
    penalty = ended(tmp_path, L2Penalty(amount=0.05))
    half = ended(tmp_path, optim=SGD(lr=0.1, momentum=0.0, weight_decay=0.1))
    same = ended(tmp_path, optim=SGD(lr=0.1, momentum=0.0, weight_decay=0.05))
    for name, value in penalty.items():
        assert torch.allclose(value, half[name], rtol=0, atol=1e-14), name
    assert not torch.allclose(penalty["0.weight"], same["0.weight"], atol=1e-4)


def test_with_adam_the_penalty_is_not_decoupled_decay(tmp_path: Path) -> None:
    penalty = ended(tmp_path, L2Penalty(amount=0.05), optim=AdamW(lr=0.01, weight_decay=0.0))
    decay = ended(tmp_path, optim=AdamW(lr=0.01, weight_decay=0.1))
    assert not torch.allclose(penalty["0.weight"], decay["0.weight"], atol=1e-3)


def test_training_records_hold_the_penalty_and_evaluations_do_not(tmp_path: Path) -> None:
    val = points(12, seed=1)
    data = lehr.Data(train=(points(24)[0].double(), points(24)[1]), val=(val[0].double(), val[1]), batch_size=24)
    optim = SGD(lr=1e-12, momentum=0.0)
    seen = []
    for methods in ((), (L1Penalty(amount=0.5),)):
        run = tmp_path / f"{len(methods)}"
        lehr.train(
            made(*methods, data=data, optim=optim, evaluate=Evaluate(every=1), track=Track(every=1)), run_dir=run
        )
        seen.append({record["split"]: record["loss"] for record in records(run)})
    with seeds.seeded(0, "init"):
        size = sum(p.detach().abs().sum() for p in double_mlp().parameters() if p.ndim == 2)
    assert seen[1]["train"] - seen[0]["train"] == pytest.approx(0.5 * float(size), abs=1e-9)
    assert seen[1]["val"] == pytest.approx(seen[0]["val"], abs=1e-9)


def test_norms_and_biases_are_left_out_unless_named() -> None:
    model = Mlp()
    assert {id(p) for p in built(L1Penalty(), model)._parameters} == {id(model.first.weight), id(model.last.weight)}
    named = built(L1Penalty(on=("*.weight",)), model)._parameters
    assert {id(p) for p in named} == {id(p) for n, p in model.named_parameters() if n.endswith("weight")}


N, LAMBDA = 8, 0.3
DESIGN = torch.tensor([[float((-1) ** bin(i & j).count("1")) for j in range(N)] for i in range(N)], dtype=torch.float64)
"""Hadamard's matrix: its columns are orthogonal, and X'X / n = 1."""
TRUE = torch.tensor([1.0, -0.8, 0.5, 0.31, 0.29, -0.2, 0.1, 0.0], dtype=torch.float64)


def lasso(*methods: Any, **changes: Any) -> lehr.Recipe:
    def half_squares(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
        x, y = batch
        return (model(x)[:, 0] - y).square().sum() / 2, len(y)

    return made(
        *methods,
        model=lambda: nn.Linear(N, 1, bias=False).double(),
        data=lehr.Data(train=(DESIGN, DESIGN @ TRUE), batch_size=N),
        objective=half_squares,
        **{"optim": SGD(lr=0.5, momentum=0.0), "steps": 60} | changes,
    )


def fitted(tmp_path: Path, run: lehr.Recipe) -> Tensor:
    trainer = lehr.Trainer(run, run_dir=tmp_path / f"fit{len(list(tmp_path.iterdir()))}")
    trainer.fit()
    weight: Tensor = trainer.model.weight.detach()[0]
    return weight


@pytest.mark.parametrize("schedule", ["constant", "warmup_linear"])
def test_proximal_l1_gives_the_lassos_solution_with_exact_zeros(tmp_path: Path, schedule: str) -> None:
    """On an orthogonal design it is known: sign(b) max(|b| - lambda, 0), with b the least squares solution."""
    expected = TRUE.sign() * (TRUE.abs() - LAMBDA).clamp(min=0)
    found = fitted(tmp_path, lasso(ProximalL1(amount=LAMBDA, on=("weight",)), schedule=schedule))
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)
    assert [bool(w == 0) for w in found] == [False, False, False, False, True, True, True, True]


def test_plain_l1_gives_no_exact_zeros(tmp_path: Path) -> None:
    """The guide says that L1 makes weights 0. Its gradient only lets them jump around 0 by the rate times lambda."""
    found = fitted(
        tmp_path, lasso(L1Penalty(amount=LAMBDA, on=("weight",)), optim=SGD(lr=0.05, momentum=0.0), steps=200)
    )
    assert int((found == 0).sum()) == 0
    assert float(found[4:].abs().max()) < 0.05 * LAMBDA * 2
    expected = TRUE.sign() * (TRUE.abs() - LAMBDA).clamp(min=0)
    assert torch.allclose(found, expected, atol=0.03)


def test_the_threshold_is_the_rate_of_the_group_and_the_step(tmp_path: Path) -> None:
    rules = (Rule(pattern="0.*", rate=0.5),)
    run = {"optim": SGD(lr=0.2, momentum=0.0, rules=rules), "schedule": lambda step: 0.25, "steps": 1}
    trainers = [
        lehr.Trainer(made(*methods, **run), run_dir=tmp_path / f"{len(methods)}")
        for methods in ((), (ProximalL1(amount=0.8),))
    ]
    for trainer in trainers:
        trainer.fit()
    plain, sparse = (weights(trainer.model) for trainer in trainers)
    for name, rate in (("0.weight", 0.2 * 0.5 * 0.25), ("2.weight", 0.2 * 0.25)):
        expected = plain[name].sign() * (plain[name].abs() - rate * 0.8).clamp(min=0)
        assert torch.allclose(sparse[name], expected, rtol=0, atol=1e-15)
        assert int((sparse[name] == 0).sum()) > 0
    assert torch.equal(sparse["0.bias"], plain["0.bias"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClipByValue(limit=0), r"limit=0 is refused"),
        (lambda: AdaptiveGradientClipping(eps=0), r"eps=0 is refused"),
        (lambda: GradientNoise(gamma=-1), r"gamma=-1 is refused"),
        (lambda: L1Penalty(amount=-0.1), r"amount=-0.1 is refused"),
        (lambda: L2Penalty(amount=math.nan), r"amount=nan is refused"),
        (lambda: ElasticNet(l1=0, l2=0), r"l1=0 and l2=0 penalize nothing"),
        (lambda: ProximalL1(amount=0), r"amount=0 is refused"),
        (lambda: built(L1Penalty(on=("frist.*",)), Mlp()), r"'frist.\*' matches no parameter of Mlp"),
        (lambda: built(L2Penalty(on=()), Mlp()), r"on=\[\] chooses no parameter"),
        (lambda: built(ElasticNet(), nn.LayerNorm(3)), r"LayerNorm, which has no trainable matrix or kernel"),
        (lambda: built(ProximalL1(), Mlp()), r"chooses only parameters that no optimizer trains"),
        (
            lambda: built(AdaptiveGradientClipping(aside=("head",)), Mlp()),
            r"aside=\['head'\] names 'head', which is no module of Mlp; its modules: first, norm, drop, last",
        ),
        (lambda: built(AdaptiveGradientClipping(), nn.Linear(2, 2)), r"nothing to clip: all parameters of Linear"),
    ],
)
def test_what_would_do_nothing_or_cannot_be_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()


WEAK = [
    ClipByValue(limit=1e9),
    AdaptiveGradientClipping(limit=1e12),
    GradientNoise(eta=1e-60),
    L1Penalty(amount=1e-30),
    L2Penalty(amount=1e-30),
    ElasticNet(l1=1e-30, l2=1e-30),
    ProximalL1(amount=1e-30),
]


@pytest.mark.parametrize("method", WEAK, ids=lambda method: type(method).__name__)
def test_no_draw_of_the_run_is_changed(tmp_path: Path, method: Any) -> None:
    """With a strength of next to nothing a run ends where it ends without the method: same batches, same dropout."""
    ends = []
    for methods in ((), (method,)):
        trainer = lehr.Trainer(recipe(steps=8, methods=methods), run_dir=tmp_path / f"{len(methods)}")
        trainer.fit()
        ends.append(weights(trainer.model))
    assert_same(*ends)


@pytest.mark.parametrize("settings", [L1Penalty, L2Penalty, ElasticNet, ProximalL1])
def test_penalties_are_on_what_trains(settings: Any) -> None:
    """On a frozen parameter one would be a number in the loss, and nothing else."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    context = RunContext(model=model, run=RunLength(10), optimizers=[optimizer])
    with pytest.raises(SettingError, match=r"chooses only parameters that are frozen \(0.weight\)"):
        settings(on=("0.weight",)).build(context)
    assert settings(on=("*.weight",)).build(context)
    assert penalized(model, ("*.weight",)) == [model[1].weight]
