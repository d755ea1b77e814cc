"""Optimizers with their state in a few directions: memory, validation loss and time beside AdamW's, on gpt-text.

    python benchmarks/lowrank_optimizer.py

AdamW is given the best of several rates, those of the blocks apart from the others too, as the projected ones have it.
Whole commands on one thread; state is counted with all that stays dense.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import common
import recipes
import torch

from lehr.base.settings import override
from lehr.optim import optimizer_bytes
from lehr.recipes.gpt_text import recipe

INNER = ["betas=[0.9, 0.95]", "weight_decay=0"]
ADAMW = ["optim=adamw", *(f"optim.{setting}" for setting in INNER)]
RATES = ((3e-3, 1.0), (6e-3, 0.25), (1.2e-2, 0.125))
"""Of AdamW, and the share of them that the blocks have; the best is compared with."""
RATE = 6e-3
"""Of the projected ones, for matrices and for the rest."""
PROJECTED = [
    "optim=projected",
    f"optim.lr={RATE}",
    f"optim.inner.lr={RATE}",
    "optim.weight_decay=0",
    *(f"optim.inner.{setting}" for setting in INNER),
]
KINDS = {
    "leading directions, scaled residual": [],
    "leading directions, no residual": ["optim.residual=none"],
    "random directions": ["optim.projector=random"],
    "power steps, error feedback": ["optim.projector=power", "optim.every=1", "optim.residual=feedback"],
}
STATE, LOSS = 0.40, 1.01
"""The targets of the first kind, against AdamW."""
SEEDS = 2
COMMON = ["threads=1", "schedule.warmup=5%"]


def state_bytes(settings: list[str], width: int) -> int:
    """Return what the optimizer of the recipe with these settings keeps after an update."""
    made = override(recipe(), [f"model.width={width}", *settings])
    model = made.model.build({"vocab_size": 256, "context": 256})
    optimizers = made.optim.build(model)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    return optimizer_bytes(*optimizers)


def state(widths: tuple[int, ...] = (128, 256, 512)) -> list[common.Row]:
    """Bytes of state over AdamW's."""
    rows = []
    for width in widths:
        for kind, settings in KINDS.items():
            ratio = state_bytes(PROJECTED + settings, width) / state_bytes(ADAMW, width)
            first = kind == next(iter(KINDS))
            rows.append(
                common.Row(
                    what=f"width {width}, {kind}: state over AdamW's",
                    measured=ratio,
                    target=STATE if first else None,
                    met=ratio <= STATE if first else None,
                )
            )
    return rows


def adamw(rate: float, share: float) -> list[str]:
    """Return AdamW's settings with a rate, of which blocks have a share."""
    return [*ADAMW, f"optim.lr={rate}", f'optim.rules=[{{"pattern": "blocks.*", "rate": {share}}}]']


def runs(folder: Path, name: str, settings: list[str], shorten: list[str], seeds: int) -> tuple[list[float], float]:
    """Return the validation loss by seed, and the median of the training seconds."""
    losses, seconds = [], []
    for seed in range(seeds):
        words = [word for setting in (*COMMON, *settings, f"seed={seed}") for word in ("--set", setting)]
        result, _ = recipes.trained("gpt-text", folder / f"{name}-{seed}", *words, *shorten, cwd=folder)
        losses.append(result["val_loss"])
        seconds.append(result["train_seconds"])
    return losses, statistics.median(seconds)


def loss(folder: Path, shorten: list[str]) -> list[common.Row]:
    """Validation loss and time over those of AdamW at its best rate."""
    seeds = 1 if shorten else SEEDS
    dense = {
        f"{rate:g}, blocks {rate * share:g}": runs(folder, f"adamw-{rate}", adamw(rate, share), shorten, seeds)
        for rate, share in RATES[: 1 if shorten else None]
    }
    best = min(dense, key=lambda rate: statistics.mean(dense[rate][0]))
    reference, reference_seconds = statistics.mean(dense[best][0]), dense[best][1]
    rows = [
        common.Row(
            what=f"AdamW at {rate}: validation loss", measured=statistics.mean(found), spread=(min(found), max(found))
        )
        for rate, (found, _) in dense.items()
    ]
    for place, (kind, settings) in enumerate(list(KINDS.items())[: 1 if shorten else None]):
        found, seconds = runs(folder, f"kind-{place}", PROJECTED + settings, shorten, seeds)
        mean = statistics.mean(found)
        target = LOSS * reference if place == 0 and not shorten else None
        rows.append(
            common.Row(
                what=f"{kind}: validation loss, and AdamW's at {best}",
                measured=mean,
                reference=reference,
                target=target,
                met=None if target is None else mean <= target,
                spread=(min(found), max(found)),
            )
        )
        rows.append(common.Row(what=f"{kind}: training time over AdamW's", measured=seconds / reference_seconds))
    return rows


def main() -> None:
    options = common.parser(__doc__.splitlines()[0]).parse_args()
    shorten = ["--set", "steps=20"] if options.quick else []
    with tempfile.TemporaryDirectory() as name:
        common.finish([*state((128,) if options.quick else (128, 256, 512)), *loss(Path(name), shorten)], options)


if __name__ == "__main__":
    main()
