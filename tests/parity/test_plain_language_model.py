"""A language model's loop in six steps, written out in plain PyTorch, and a run of lehr: the same, bit for bit.

Forward and loss; backward; clip; update and zero; the schedule; every few steps loss and perplexity. What it takes from
lehr: the order of the samples, the initial weights, and that decay falls on matrices but not on embeddings.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same, recipe, records, weights
from torch import Tensor, nn

import lehr
from lehr.base import seeds
from lehr.data.order import shuffled
from lehr.losses import Supervised, cross_entropy
from lehr.models.gpt import GPTSettings
from lehr.optim import AdamW
from lehr.run.recipe import Evaluate, Track
from lehr.schedules import WarmupCosine

STEPS, BATCH, LENGTH, VOCABULARY, WARMUP, LR, DECAY, CLIP, EVERY = 24, 4, 16, 11, 4, 0.01, 0.1, 0.5, 6


def windows(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens, and the same one place later; each is the one before it plus 1, 2 or 3."""
    strides = torch.randint(1, 4, (n, LENGTH + 1), generator=torch.Generator().manual_seed(seed))
    tokens = strides.cumsum(dim=1) % VOCABULARY
    return tokens[:, :-1], tokens[:, 1:]


def model() -> nn.Module:
    return GPTSettings(width=16, depth=2, heads=2).build({"vocab_size": VOCABULARY, "context": LENGTH})


def rate(step: int) -> float:
    if step < WARMUP:
        return LR * ((step + 1) / WARMUP)
    return LR * ((1 + math.cos(math.pi * ((step - WARMUP) / (STEPS - WARMUP)))) / 2)


def plain_loop() -> tuple[nn.Module, list[float], list[str]]:
    """Train; returns the model, the losses of all steps, and the lines that the guide's loop prints."""
    inputs, targets = windows(32)
    with seeds.seeded(0, "init"):
        net = model()
    embedded = {m.weight for m in net.modules() if isinstance(m, nn.Embedding)}
    matrices = [p for p in net.parameters() if p not in embedded]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": list(embedded), "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)
    losses: list[float] = []
    lines: list[str] = []
    for epoch in range(3):
        for indices in shuffled(len(inputs), seed=0, epoch=epoch).split(BATCH):
            scores = net(inputs[indices])
            loss = F.cross_entropy(scores.reshape(-1, VOCABULARY), targets[indices].reshape(-1), reduction="sum")
            loss = loss / (BATCH * LENGTH)
            loss.backward()
            nn.utils.clip_grad_norm_([*matrices, *embedded], CLIP)
            for group in optimizer.param_groups:
                group["lr"] = rate(len(losses))
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
            if len(losses) % EVERY == 0:
                lines.append(f"loss {losses[-1]:.4f} PPL {math.exp(losses[-1]):.2f}")
    assert len(losses) == STEPS
    return net, losses, lines


def run(folder: Path, every: int) -> tuple[nn.Module, list[dict[str, float]], list[dict[str, float]]]:
    made = recipe(
        model=model,
        data=lehr.Data(train=windows(32), val=windows(8, seed=1), batch_size=BATCH),
        objective=Supervised(loss=cross_entropy, unit="token"),
        metrics=("perplexity",),
        optim=AdamW(lr=LR, weight_decay=DECAY),
        schedule=WarmupCosine(warmup=WARMUP),
        clip=CLIP,
        steps=STEPS,
        evaluate=Evaluate(every=8),
        track=Track(every=every),
    )
    trained = lehr.train(made, run_dir=folder).model
    assert trained is not None
    found = records(folder)
    return trained, *([r for r in found if r["split"] == split] for split in ("train", "val"))


def test_a_language_models_loop_is_ours_bit_for_bit(tmp_path: Path, global_draws: object) -> None:
    expected, losses, lines = plain_loop()
    trained, train, val = run(tmp_path / "run", every=1)
    assert_same(weights(trained), weights(expected))
    assert [float(torch.tensor(r["loss"])) for r in train] == losses
    assert [r["lr"] for r in train] == [rate(step) for step in range(STEPS)]
    assert [r["perplexity"] for r in train] == pytest.approx([math.exp(loss) for loss in losses], rel=1e-6)
    printed = [f"loss {r['loss']:.4f} PPL {r['perplexity']:.2f}" for r in train if r["step"] % EVERY == 0]
    assert printed == lines
    assert losses[-1] < 0.8 * losses[0], "it learns"
    inputs, targets = windows(8, seed=1)
    with torch.no_grad():
        held_out = F.cross_entropy(expected.eval()(inputs).flatten(0, 1), targets.flatten())
    assert val[-1]["perplexity"] == pytest.approx(float(held_out.exp()), rel=1e-5)


def test_a_record_every_few_steps_is_of_all_of_them(tmp_path: Path) -> None:
    """The guide prints the last batch's loss; here a record is the mean since the record before."""
    _, losses, _ = plain_loop()
    _, train, _ = run(tmp_path / "run", every=EVERY)
    means = [sum(losses[i : i + EVERY]) / EVERY for i in range(0, STEPS, EVERY)]
    assert [r["step"] for r in train] == [6, 12, 18, 24]
    assert [r["loss"] for r in train] == pytest.approx(means, rel=1e-6)
    assert [r["perplexity"] for r in train] == pytest.approx(list(map(math.exp, means)), rel=1e-6)
