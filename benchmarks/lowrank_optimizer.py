"""Optimizers with their state in a few directions: memory, validation loss and time beside AdamW's, on gpt-text.

    python benchmarks/lowrank_optimizer.py

AdamW is given the best of several rates, those of the blocks apart from the others too, as the projected ones have it.
Whole commands on one thread; state is counted with all that stays dense.
"""

from __future__ import annotations

import concurrent.futures
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


def run(folder: Path, settings: list[str], shorten: list[str], seed: int) -> tuple[float, float]:
    """Return the validation loss and the training seconds of one run."""
    words = [word for setting in (*COMMON, *settings, f"seed={seed}") for word in ("--set", setting)]
    result, _ = recipes.trained("gpt-text", folder, *words, *shorten)
    return result["val_loss"], result["train_seconds"]


def loss(folder: Path, shorten: list[str]) -> list[common.Row]:
    """Validation loss and time over those of AdamW at its best rate; two runs at a time, one core each.

    The first seed finds AdamW's best rate; that one and the first kind are then run with further seeds.
    """
    with concurrent.futures.ThreadPoolExecutor(2) as pool:

        def start(name: str, settings: list[str], seed: int) -> concurrent.futures.Future[tuple[float, float]]:
            return pool.submit(run, folder / f"{name}-{seed}", settings, shorten, seed)

        rates = RATES[: 1 if shorten else None]
        dense = [start(f"adamw-{place}", adamw(*rate), 0) for place, rate in enumerate(rates)]
        kinds = [start(f"kind-{place}", PROJECTED + own, 0) for place, own in enumerate(KINDS.values())]
        losses = [future.result()[0] for future in dense]
        best = losses.index(min(losses))
        further = range(1, 1 if shorten else SEEDS)
        of_best = [dense[best].result()] + [start("best", adamw(*rates[best]), seed).result() for seed in further]
        first = [kinds[0].result()] + [start("first", PROJECTED, seed).result() for seed in further]
        kinds_found = [first, *([future.result()] for future in kinds[1:])]
    names = [f"{rate:g}, blocks {rate * share:g}" for rate, share in rates]
    reference, seconds = (statistics.mean(column) for column in zip(*of_best, strict=True))
    rows = [
        common.Row(what=f"AdamW at {name}: validation loss", measured=v) for name, v in zip(names, losses, strict=True)
    ]
    for place, (kind, found) in enumerate(zip(KINDS, kinds_found, strict=True)):
        values = [value for value, _ in found]
        target = LOSS * reference if place == 0 and not shorten else None
        rows.append(
            common.Row(
                what=f"{kind}: validation loss, and AdamW's at {names[best]}",
                measured=statistics.mean(values),
                reference=reference,
                target=target,
                met=None if target is None else statistics.mean(values) <= target,
                spread=(min(values), max(values)),
            )
        )
        taken = statistics.mean(s for _, s in found)
        rows.append(common.Row(what=f"{kind}: training time over AdamW's", measured=taken / seconds))
    return rows


def rows(folder: Path, *, quick: bool) -> list[common.Row]:
    """Everything."""
    shorten = ["--set", "steps=20"] if quick else []
    return [*state((128,) if quick else (128, 256, 512)), *loss(folder, shorten)]


def main() -> None:
    options = common.parser(__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as name:
        common.finish(rows(Path(name), quick=options.quick), options)


if __name__ == "__main__":
    main()
