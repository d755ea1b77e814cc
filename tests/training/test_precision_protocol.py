"""The protocol of mixed precision, written out in torch alone: scale, backward, unscale, clip, step, update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same, points, recipe, records, weights
from torch import Tensor, nn

import lehr
from lehr.base import seeds
from lehr.data.order import shuffled
from lehr.data.pairs import PairData
from lehr.models.seq2seq import BOS, EOS, PAD, Seq2Seq, Seq2SeqSettings
from lehr.optim import AdamW
from lehr.recipes.translate import recipe as translate
from lehr.run.recipe import Recipe, Track
from lehr.training.precision import Precision, autocast

BATCH, STEPS, LR, CLIP = 8, 20, 0.02, 0.3
LARGE = 40
"""Inputs of this size have gradients that overflow at the first scales."""


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))


def samples() -> tuple[Tensor, Tensor]:
    x, y = points(64)
    return x * LARGE, y


def plain_loop() -> tuple[nn.Module, list[float], list[float]]:
    """The guide's protocol with one scaler for the run; returns the model, the losses and the scales."""
    x, y = samples()
    with seeds.seeded(0, "init"):
        model = network()
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)
    scaler = torch.amp.GradScaler("cpu")
    losses, scales, epoch, applied = list[float](), [scaler.get_scale()], 0, 0
    while applied < STEPS:
        for indices in shuffled(len(x), seed=0, epoch=epoch).split(BATCH):
            if applied == STEPS:
                break
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.cross_entropy(model(x[indices]), y[indices], reduction="sum") / BATCH
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(matrices + others, CLIP)
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
            if scales[-1] < scales[-2]:
                continue  # the scaler has left the update out
            losses.append(float(loss.detach()))
            applied += 1
        epoch += 1
    return model, losses, scales


def test_it_is_torchs_protocol_bit_for_bit(tmp_path: Path) -> None:
    expected, losses, scales = plain_loop()
    made = recipe(
        model=network,
        data=lehr.Data(train=samples(), batch_size=BATCH),
        optim=AdamW(lr=LR),
        schedule="constant",
        clip=CLIP,
        precision="fp16",
        steps=STEPS,
        track=Track(every=1),
    )
    trainer = lehr.Trainer(made, run_dir=tmp_path / "run")
    trainer.fit()
    assert_same(weights(trainer.model), weights(expected))
    found = [r for r in records(tmp_path / "run") if "withheld" not in r]
    assert [float(torch.tensor(r["loss"])) for r in found] == losses
    assert trainer.loop.update.scaler is not None
    assert trainer.loop.update.scaler.get_scale() == scales[-1]
    assert trainer.loop.clock.skipped == len(scales) - 1 - STEPS > 0, "some updates overflowed"
    assert any(r["grad_norm"] > CLIP for r in found), "some were clipped"


FORMATS = {"fp32": (torch.float32, 8, 23), "bf16": (torch.bfloat16, 8, 7), "fp16": (torch.float16, 5, 10)}


@pytest.mark.parametrize("name", FORMATS)
def test_the_bits_of_a_format_are_its_range_and_its_steps(name: str) -> None:
    """A sign, e exponent bits and m of the fraction: the largest number is (2 - 2^-m) 2^(2^(e-1) - 1)."""
    dtype, exponent, fraction = FORMATS[name]
    facts = torch.finfo(dtype)
    assert 1 + exponent + fraction == facts.bits
    assert facts.eps == 2.0**-fraction
    assert facts.max == (2 - 2.0**-fraction) * 2.0 ** (2 ** (exponent - 1) - 1)
    assert facts.smallest_normal == 2.0 ** (2 - 2 ** (exponent - 1))


class Seen(nn.Module):
    """Notes in which format its parts give their outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.norm = nn.LayerNorm(8)
        self.linear = nn.Linear(8, 5)
        self.formats: dict[str, torch.dtype] = {}

    def forward(self, ids: Tensor) -> Tensor:
        stream = self.embedding(ids)
        normal = self.norm(stream)
        scores: Tensor = self.linear(normal)
        self.formats = {"embedding": stream.dtype, "norm": normal.dtype, "linear": scores.dtype}
        return scores


@pytest.mark.parametrize(("precision", "low"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
@pytest.mark.filterwarnings("ignore:precision='bf16' takes")
def test_products_are_of_16_bits_and_all_else_of_32(tmp_path: Path, precision: Precision, low: torch.dtype) -> None:
    """Products of matrices in 16 bits; what is looked up, its norm, the loss, gradients, weights, moments in 32."""
    ids = torch.randint(0, 7, (32, 6), generator=torch.Generator().manual_seed(0))
    objective = lehr.losses.Supervised(loss=lehr.losses.cross_entropy)
    losses: list[torch.dtype] = []

    def noted(model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        total, count = objective(model, batch)
        losses.append(total.dtype)
        return total, count

    made = recipe(
        model=Seen,
        data=lehr.Data(train=(ids, ids % 5), batch_size=8),
        objective=noted,
        metrics=(),
        precision=precision,
        steps=3,
    )
    trainer = lehr.Trainer(made, run_dir=tmp_path / "run")
    gradients: list[torch.dtype] = []
    update = trainer.loop.update.update

    def look(*given: Any) -> None:
        gradients.extend(p.grad.dtype for p in trainer.model.parameters() if p.grad is not None)
        update(*given)

    trainer.loop.update.update = look  # type: ignore[method-assign]
    trainer.fit()
    assert trainer.model.formats == {"embedding": torch.float32, "norm": torch.float32, "linear": low}
    assert set(losses) == {torch.float32} and set(gradients) == {torch.float32}
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    states = [s for o in trainer.loop.update.optimizers for s in o.state.values()]
    assert {v.dtype for s in states for v in s.values() if isinstance(v, Tensor)} == {torch.float32}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_softmax_of_16_bits_is_widened_on_cuda_and_losses_everywhere(device: str) -> None:
    with autocast("bf16", device)():
        scores = nn.Linear(4, 4, device=device)(torch.ones(2, 4, device=device))
        wide = torch.float32 if device == "cuda" else torch.bfloat16
        assert scores.dtype == torch.bfloat16
        assert scores.softmax(dim=-1).dtype == F.layer_norm(scores, (4,)).dtype == wide
        labels = torch.tensor([0, 1], device=device)
        assert F.cross_entropy(scores, labels).dtype == F.mse_loss(scores, scores.detach()).dtype == torch.float32
        assert lehr.losses.cross_entropy(scores, labels)[0].dtype == torch.float32


def translation(accumulate: int, precision: Precision, **changes: Any) -> Recipe:
    """The base case in small, without dropout, whose draws follow the cutting."""
    fields = {name: getattr(translate(), name) for name in Recipe.model_fields}
    model = Seq2SeqSettings(width=16, depth=1, heads=2, dropout=0.0)
    small: dict[str, Any] = {"model": model, "data": PairData(batch_size=32), "epochs": None, "steps": 8}
    small |= {"accumulate": accumulate, "precision": precision, "device": "cpu", "clip": 1.0, "track": Track(every=1)}
    return Recipe(**fields | small | changes)


def test_the_decoder_is_fed_the_right_answer_one_place_late() -> None:
    """model(source, target[:, :-1]) against target[:, 1:]."""
    splits = PairData().open()
    _, fed, target = splits.train.take_batch(torch.arange(64), epoch=0, seed=0)
    assert bool((fed[:, 0] == BOS).all())
    inside = fed[:, 1:] != PAD
    assert torch.equal(fed[:, 1:][inside], target[:, :-1][inside])
    ends = (target == EOS).sum(dim=1)
    assert bool((ends == 1).all())


def test_scaler_accumulation_and_teacher_forcing_together_change_nothing_but_rounding(tmp_path: Path) -> None:
    """Eight updates of 4 pairs by 8, in fp16, beside whole batches of 32 in fp16 and in fp32."""
    runs: dict[str, Any] = {}
    for accumulate, precision in ((8, "fp16"), (1, "fp16"), (1, "fp32")):
        name = f"{precision}-{accumulate}"
        trainer = lehr.Trainer(translation(accumulate, precision), run_dir=tmp_path / name)  # type: ignore[arg-type]
        trainer.fit()
        train = [r for r in records(tmp_path / name) if r["split"] == "train"]
        runs[name] = (trainer, [r["loss"] for r in train if "withheld" not in r], [r["tokens"] for r in train][-1])
    cut, whole, full = (runs[name] for name in ("fp16-8", "fp16-1", "fp32-1"))
    assert (cut[0].loop.clock.step, cut[0].loop.clock.microsteps) == (8, 64)
    assert cut[2] == whole[2] == full[2], "the same tokens were trained on"
    assert cut[1] == pytest.approx(whole[1], rel=2e-3)
    assert cut[1] == pytest.approx(full[1], rel=5e-3)
    for name, value in weights(cut[0].model).items():
        torch.testing.assert_close(value, weights(whole[0].model)[name], rtol=0, atol=4e-3)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 0.05)])
def test_the_first_update_of_the_guides_loop_is_ours(tmp_path: Path, precision: Precision, tolerance: float) -> None:
    """Its gradients by torch alone in fp32, of the mean over all tokens of 32 pairs, beside ours of 8 times 4 pairs."""
    made = translation(8, precision, steps=1)
    trainer = lehr.Trainer(made, run_dir=tmp_path / "run")
    found: dict[str, Tensor] = {}
    update = trainer.loop.update.update

    def look(*given: Any) -> None:
        found.update({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
        update(*given)

    trainer.loop.update.update = look  # type: ignore[method-assign]
    trainer.fit()
    splits = made.data.open()
    with seeds.seeded(0, "init"):
        model: Seq2Seq = made.model.build(splits.facts)
    indices = shuffled(len(splits.train), seed=0, epoch=0)[:32]
    source, fed, target = splits.train.take_batch(indices, epoch=0, seed=0)
    F.cross_entropy(model(source, fed).flatten(0, 1), target.flatten(), ignore_index=PAD).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    expected = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm()) < tolerance * float(gradient.norm()) + 1e-6, name
