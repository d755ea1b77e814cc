"""What it costs to be watched: records, the finite check and the loop's statistics, against an update without them.

python benchmarks/watched.py --record watched

Both sides are the same recipe with the same optimizer and the same noise, whose seeds follow from the step. The bare
side reads no number: it clips by a factor that stays on the device, checks nothing, counts nothing and writes nothing.
What the seeds cost stands in a row of its own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

MLP_TARGET, GPT_TARGET = 20.0, 1.02
"""Microseconds a step; times as long."""


def mlp() -> Any:
    """Return the MLP of overhead.py as a recipe."""
    import overhead

    return overhead.recipe(64, 1_000_000)


def gpt_text() -> Any:
    """Return gpt-text."""
    from lehr.recipes import gpt_text as module

    return module.recipe().model_copy(update={"steps": 100_000})


def bare(trainer: Any, *, seeded: bool = True) -> Callable[[int], float]:
    """Return what trains so many steps of a trainer's update without looking at anything; it returns the seconds."""
    import torch

    from lehr.base import seeds
    from lehr.optim.clip import clip_factor, global_norm

    update = trainer.loop.update
    loader, clip, step = trainer.loop.loader, update.clip, 0

    def run(steps: int) -> float:
        nonlocal step
        started = common.clock()
        for _ in range(steps):
            batch = next(loader)
            if seeded:
                seeds.seed_noise(update.noise, step, 0, update.device.type)
            with update.autocast():
                total, count = update.objective(update.called, batch)
            torch.autograd.backward(total / count)
            if clip is not None:
                gradients = [p.grad for p in update.parameters if p.grad is not None]
                torch._foreach_mul_(gradients, clip_factor(global_norm(gradients), clip))
            factor = update.schedule(step)
            for group, base in update.rates:
                group["lr"] = base * factor
            for one in update.steps:
                one()
            for parameter in update.parameters:
                parameter.grad = None
            step += 1
        return common.clock() - started

    return run


def watched(trainer: Any, batches: Any) -> Callable[[int], float]:
    """Return what trains so many steps as lehr does; it returns the seconds."""

    def run(steps: int) -> float:
        started = common.clock()
        for _ in range(steps):
            trainer.step(next(batches))
        return common.clock() - started

    return run


def sides(make: Callable[[], Any], steps: int, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of a step: watched, bare, and bare without seeds, window by window in turn."""
    import lehr
    from lehr.measurement.arm import measurable

    with tempfile.TemporaryDirectory() as folder:
        trainers = [lehr.Trainer(measurable(make()), run_dir=Path(folder) / str(place)) for place in range(3)]
        batches = trainers[0].batches()
        runs = {
            "watched": watched(trainers[0], batches),
            "bare": bare(trainers[1]),
            "unseeded": bare(trainers[2], seeded=False),
        }
        for run in runs.values():
            run(steps)
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(repeats):
            for name in list(runs) if repeat % 2 == 0 else reversed(runs):
                taken[name].append(runs[name](steps) / steps)
        batches.close()
    return taken


def rows(options: argparse.Namespace) -> list[common.Row]:
    """Measure both."""
    import torch

    torch.set_num_threads(1)
    taken = sides(mlp, 400, 7 if options.quick else 41)
    middle = {name: 1e6 * statistics.median(seconds) for name, seconds in taken.items()}
    found = []
    for what, one, other, target in (
        ("watched - bare", "watched", "bare", MLP_TARGET),
        ("seeds that follow from the step", "bare", "unseeded", None),
    ):
        costs = [1e6 * (a - b) for a, b in zip(taken[one], taken[other], strict=True)]
        cost = statistics.median(costs)
        found.append(
            common.Row(
                what=f"MLP: {what}, us a step ({one} {middle[one]:.0f})",
                measured=cost,
                target=target,
                met=None if target is None else cost <= target,
                spread=(min(costs), max(costs)),
            )
        )
    taken = sides(gpt_text, 2, 5 if options.quick else 15)
    share, low, high = common.ratios(taken, "watched", "bare")
    met = share <= GPT_TARGET
    row = common.Row(what="gpt-text: watched / bare", measured=share, target=GPT_TARGET, met=met, spread=(low, high))
    return [*found, row]


def main() -> None:
    """Run it."""
    given = common.parser(__doc__ or "").parse_args()
    common.finish(rows(given), given)


if __name__ == "__main__":
    main()
