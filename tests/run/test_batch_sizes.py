"""Small and large batches in runs: noise, number of updates, memory, valleys, and rates scaled with a warm-up."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_same, points, recipe, records, weights
from torch import Tensor, nn

import lehr
from lehr.base import seeds
from lehr.base.protocols import Method, Place
from lehr.losses import Supervised, cross_entropy
from lehr.optim import SGD, scale_rate
from lehr.run.recipe import Evaluate, Save, Track
from lehr.schedules import Constant


class Gradients(Method):
    """Keeps the gradients of all updates."""

    changes = frozenset({"gradients"})

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def grads_ready(self, model: nn.Module, place: Place) -> None:
        self.seen.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))


def gradients(run: Path, batch_size: int) -> Tensor:
    """Return the gradients (updates, weights) of 8 epochs that leave the weights as they are, but for 1e-12."""
    watch = Gradients()
    made = recipe(
        model=lambda: nn.Linear(4, 3),
        data=lehr.Data(train=points(512), batch_size=batch_size),
        optim=SGD(lr=1e-12, momentum=0.0),
        schedule="constant",
        methods=(watch,),
        clip=None,
        steps=None,
        epochs=8,
    )
    lehr.train(made, run_dir=run)
    return torch.stack(watch.seen).double()


def test_noise_falls_as_one_over_the_batch_and_so_do_the_updates(tmp_path: Path) -> None:
    """Of N samples drawn without putting back, the mean of B has the variance s²/B (N - B)/(N - 1)."""
    found = {size: gradients(tmp_path / str(size), size) for size in (4, 16, 64)}
    assert {size: len(g) for size, g in found.items()} == {4: 8 * 128, 16: 8 * 32, 64: 8 * 8}
    means = [g.mean(dim=0) for g in found.values()]
    torch.testing.assert_close(means[0], means[2], rtol=1e-4, atol=1e-6)  # it is the noise that differs
    spread = {size: float(g.var(dim=0, correction=0).sum()) / (512 - size) for size, g in found.items()}
    assert spread[4] / spread[16] == pytest.approx(4, rel=0.15)
    assert spread[16] / spread[64] == pytest.approx(4, rel=0.3)


def in_the_sharp_valley(batch_size: int, noise: float = 30) -> float:
    """Return how many of 500 weights are in the sharp valley at 0, where they began, after 1000 updates.

    Two valleys that are equally deep: 10 x², and (x - 2)²/4. Each sample's gradient has this noise.
    """
    weight = nn.ParameterList([nn.Parameter(torch.zeros(500, dtype=torch.float64))])
    (optimizer,) = SGD(lr=0.03, momentum=0.0).build(weight)
    for step in range(1000):
        x = weight[0].detach()
        sharp = 10 * x**2 < (x - 2) ** 2 / 4
        kicks = torch.randn(500, generator=seeds.generator(0, "noise", step), dtype=torch.float64)
        weight[0].grad = torch.where(sharp, 20 * x, (x - 2) / 2) + noise * kicks / math.sqrt(batch_size)
        optimizer.step()
    x = weight[0].detach()
    return float((10 * x**2 < (x - 2) ** 2 / 4).double().mean())


def test_small_batches_leave_a_sharp_valley_and_large_ones_stay() -> None:
    """The guide's ranges: 32 to 128 and 1024 to 4096. At the same rate and the same number of updates."""
    assert in_the_sharp_valley(32) < 0.3 and in_the_sharp_valley(128) < 0.9
    assert in_the_sharp_valley(1024) == in_the_sharp_valley(4096) == 1.0


def test_it_is_the_noise_that_leaves_and_not_the_number_of_samples() -> None:
    """Without the noise of its batches, no size of batch leaves the valley; with 64 times the samples, 1/8 of it."""
    assert in_the_sharp_valley(64 * 32, noise=8 * 30) == in_the_sharp_valley(32) < 1
    assert in_the_sharp_valley(32, noise=0) == 1.0


class Held:
    """An objective that adds up what the forward pass keeps for the backward pass, weights left out."""

    def __init__(self) -> None:
        self.most, self.rows = 0, 0
        self._objective = Supervised(loss=cross_entropy)

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        held, own = 0, {p.untyped_storage().data_ptr() for p in model.parameters()}

        def pack(value: Tensor) -> Tensor:
            nonlocal held
            held += 0 if value.untyped_storage().data_ptr() in own else value.nbytes
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            given = self._objective(model, batch)
        self.most, self.rows = max(self.most, held), max(self.rows, len(batch[0]))
        return given


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3)).double()


def test_accumulation_makes_the_same_update_from_a_quarter_of_the_memory(tmp_path: Path) -> None:
    x, y = points(128)
    runs: dict[int, tuple[Held, dict[str, Tensor]]] = {}
    for accumulate in (1, 4):
        held = Held()
        made = recipe(
            model=wide,
            data=lehr.Data(train=(x.double(), y), batch_size=64),
            objective=held,
            metrics=(),
            accumulate=accumulate,
            steps=6,
        )
        trainer = lehr.Trainer(made, run_dir=tmp_path / str(accumulate))
        held.most = held.rows = 0  # what was tried before the run does not count
        trainer.fit()
        runs[accumulate] = (held, weights(trainer.model))
    whole, cut = runs[1], runs[4]
    assert (whole[0].rows, cut[0].rows) == (64, 16)
    assert cut[0].most < 0.3 * whole[0].most
    for name, value in cut[1].items():
        torch.testing.assert_close(value, whole[1][name], rtol=1e-9, atol=1e-11)


class Steep(nn.Module):
    """Weights larger than they should be: steep at first, and flatter when training has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=math.sqrt(3 / layer.in_features))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layers(x)
        return scores


def trained(run: Path, seed: int, batch_size: int, lr: float, warmup: str | int) -> tuple[list[float], float]:
    """Return the losses of all updates of 20 epochs, and that of the validation."""
    made = recipe(
        model=Steep,
        data=lehr.Data(train=points(2048), val=points(256, seed=1), batch_size=batch_size),
        optim=SGD(lr=lr, momentum=0.0),
        schedule=Constant(warmup=warmup),
        clip=None,
        seed=seed,
        steps=None,
        epochs=20,
        evaluate=Evaluate(every="100%"),
        save=Save(every="100%"),
        track=Track(every=1),
    )
    result = lehr.train(made, run_dir=run)
    assert result.val_loss is not None
    return [r["loss"] for r in records(run) if r["split"] == "train"], result.val_loss


@pytest.mark.parametrize("seed", [0, 1])
def test_a_scaled_rate_throws_the_weights_out_unless_it_is_warmed_up(tmp_path: Path, seed: int) -> None:
    """From 16 to 256 samples, 16 times the rate, with the warm-up that `scale_rate` names: five epochs."""
    scaled = scale_rate(0.04, batch_size=16, to=256, for_optimizer="sgd")
    assert (scaled.lr, scaled.warmup) == (pytest.approx(0.64), "5 epochs")
    at_once, _ = trained(tmp_path / "at-once", seed, 256, scaled.lr, 0)
    warmed, end = trained(tmp_path / "warmed", seed, 256, scaled.lr, scaled.warmup or 0)
    assert max(at_once) > 8 * at_once[0]
    assert max(warmed) < 1.5 * warmed[0] == 1.5 * at_once[0]
    _, small = trained(tmp_path / "small", seed, 16, 0.04, 0)
    assert end < small + 0.1, "with the warm-up it comes to what small batches came to"


def test_cutting_alone_needs_no_other_rate(tmp_path: Path) -> None:
    """The same batch in one piece and in four: the same weights at the same rate; nothing is left to scale."""
    ends = []
    for accumulate in (1, 4):
        made = recipe(model=lambda: nn.Linear(4, 3).double(), accumulate=accumulate)
        x, y = points()
        made = made.model_copy(update={"data": lehr.Data(train=(x.double(), y), batch_size=8), "evaluate": Evaluate()})
        trainer = lehr.Trainer(made.model_copy(update={"metrics": ()}), run_dir=tmp_path / str(accumulate))
        trainer.fit()
        ends.append(weights(trainer.model))
    rounded = [{name: value.round(decimals=10) for name, value in end.items()} for end in ends]
    assert_same(*rounded)
