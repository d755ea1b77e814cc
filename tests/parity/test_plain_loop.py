"""A run of lehr is a plain PyTorch loop, written out here, bit for bit.

What the loop takes from lehr are two documented functions: `lehr.data.order.shuffled`, the order of the samples in an
epoch, and `lehr.base.seeds`, the addresses of the initial weights and of the model's own noise. What else it must know:
the loss is a sum divided by the number of samples of its batch, also of a short one; the gradient norm is taken over
the parameters in the order of the optimizer's groups; decay falls on matrices only.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import Mlp, assert_same, points, recipe, records, weights
from torch import Tensor, nn

import lehr
from lehr.base import seeds
from lehr.data.order import shuffled
from lehr.optim import AdamW
from lehr.run.recipe import Evaluate, Track
from lehr.schedules import WarmupCosine

SEED, STEPS, BATCH, WARMUP, LR, DECAY, CLIP = 3, 40, 8, 6, 0.02, 0.1, 0.8
X, Y = points(52)  # seven batches an epoch, the last one of four samples


class Deep(nn.Module):
    """Dropout, batch norm, an embedding, a tied weight, and a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Mlp(width=16, dropout=0.3, classes=8)
        self.norm = nn.LayerNorm(8)
        self.table = nn.Embedding(3, 8)
        self.head = nn.Linear(8, 3)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(self.norm(self.body(x)), 0.1, self.training))


MODELS = {"mlp": Mlp, "deep": Deep}


def plain_loop(make: Any, *, fused: bool) -> tuple[nn.Module, list[float], list[float]]:
    """Train in plain PyTorch; returns the model, its losses and its gradient norms."""
    with seeds.seeded(SEED, "init"):
        model = make()
    embedded = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    parameters = list(model.parameters())
    matrices = [p for p in parameters if p.ndim >= 2 and p not in embedded]
    others = [p for p in parameters if p.ndim < 2 or p in embedded]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.99), fused=fused)
    noise = seeds.address(SEED, "noise", 0)  # of rank 0
    losses, norms, step, epoch = [], [], 0, 0
    while step < STEPS:
        for indices in shuffled(len(X), seed=SEED, epoch=epoch).split(BATCH):
            if step == STEPS:
                break
            seeds.seed_noise(noise, step, 0, "cpu")  # microbatch 0
            loss = F.cross_entropy(model(X[indices]), Y[indices], reduction="sum") / len(indices)
            loss.backward()
            norms.append(float(nn.utils.clip_grad_norm_(matrices + others, CLIP)))
            progress = (step - WARMUP) / (STEPS - WARMUP)
            factor = (step + 1) / WARMUP if step < WARMUP else (1 + math.cos(math.pi * progress)) / 2
            for group in optimizer.param_groups:
                group["lr"] = LR * factor
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
            step += 1
        epoch += 1
    return model, losses, norms


def lehr_run(run: Path, make: Any, **changes: Any) -> tuple[nn.Module, list[dict[str, Any]]]:
    made = recipe(
        model=make,
        data=lehr.Data(train=(X, Y), val=points(20, seed=1), batch_size=BATCH),
        optim=AdamW(lr=LR, betas=(0.9, 0.99), weight_decay=DECAY),
        schedule=WarmupCosine(warmup=WARMUP),
        clip=CLIP,
        seed=SEED,
        steps=STEPS,
        track=Track(every=1),
        evaluate=Evaluate(every=9),
        **changes,
    )
    model = lehr.train(made, run_dir=run).model
    assert model is not None
    return model, [record for record in records(run) if record["split"] == "train"]


@pytest.mark.parametrize("name", MODELS)
def test_bit_for_bit(tmp_path: Path, name: str, global_draws: object) -> None:
    model, found = lehr_run(tmp_path / "run", MODELS[name])
    expected, losses, norms = plain_loop(MODELS[name], fused=True)
    assert_same(weights(model), weights(expected))
    single = [float(torch.tensor(record["loss"])) for record in found]  # records are in float64, the loop's in float32
    assert single == losses
    assert [record["grad_norm"] for record in found] == norms
    assert max(norms) > CLIP > min(norms), "some steps are clipped, some are not"


def test_close_to_torch_s_own_step_by_step_adamw(tmp_path: Path, global_draws: object) -> None:
    """The fused kernel rounds elsewhere, and over 40 steps that grows to a few of the last bits."""
    model, found = lehr_run(tmp_path / "run", Mlp)
    expected, losses, _ = plain_loop(Mlp, fused=False)
    for name, value in expected.state_dict().items():
        # batch norm takes away what the bias before it adds: its gradient is nothing but rounding, which Adam makes large
        if name not in ("first.bias", "norm.running_mean"):
            torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-6, atol=1e-6)
    assert [record["loss"] for record in found] == pytest.approx(losses, rel=1e-6)
