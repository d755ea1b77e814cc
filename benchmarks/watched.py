"""What it costs to be watched: records, the finite check and the loop's statistics, against an update without them.

python benchmarks/watched.py --record watched

Both sides are the same recipe with the same optimizer. The bare side reads no number: it clips by a factor that stays
on the device, checks nothing, counts nothing and writes nothing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
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


def bare(trainer: Any) -> Callable[[int], float]:
    """Return what trains so many steps of a trainer's update without looking at anything; it returns the seconds."""
    import torch

    from lehr.optim.clip import clip_factor, global_norm

    update = trainer.loop.update
    loader, clip, step = trainer.loop.loader, update.clip, 0

    def run(steps: int) -> float:
        nonlocal step
        started = time.perf_counter()
        for _ in range(steps):
            batch = next(loader)
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
        return time.perf_counter() - started

    return run


def watched(trainer: Any, batches: Any) -> Callable[[int], float]:
    """Return what trains so many steps as lehr does; it returns the seconds."""

    def run(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            trainer.step(next(batches))
        return time.perf_counter() - started

    return run


def pairs(make: Callable[[], Any], steps: int, repeats: int) -> tuple[list[float], list[float]]:
    """Return the seconds of a step, watched and bare, window by window in turn."""
    import lehr
    from lehr.measurement.arm import measurable

    with tempfile.TemporaryDirectory() as folder:
        trainers = [lehr.Trainer(measurable(make()), run_dir=Path(folder) / str(place)) for place in range(2)]
        one = watched(trainers[0], first := trainers[0].batches())
        other = bare(trainers[1])
        one(steps), other(steps)
        taken: tuple[list[float], list[float]] = ([], [])
        for repeat in range(repeats):
            for place in (0, 1) if repeat % 2 == 0 else (1, 0):
                taken[place].append((one, other)[place](steps) / steps)
        first.close()
    return taken


def rows(options: argparse.Namespace) -> list[common.Row]:
    """Measure both."""
    import torch

    torch.set_num_threads(1)
    repeats = 7 if options.quick else 41
    one, other = pairs(mlp, 400, repeats)
    costs = [1e6 * (a - b) for a, b in zip(one, other, strict=True)]
    cost = statistics.median(costs)
    found = [
        common.Row(
            what=f"MLP: watched - bare, us a step (watched {1e6 * statistics.median(one):.0f})",
            measured=cost,
            target=MLP_TARGET,
            met=cost <= MLP_TARGET,
            spread=(min(costs), max(costs)),
        )
    ]
    one, other = pairs(gpt_text, 2, 5 if options.quick else 15)
    shares = [a / b for a, b in zip(one, other, strict=True)]
    share = statistics.median(shares)
    found.append(
        common.Row(
            what="gpt-text: watched / bare",
            measured=share,
            target=GPT_TARGET,
            met=share <= GPT_TARGET,
            spread=(min(shares), max(shares)),
        )
    )
    return found


def main() -> None:
    """Run it."""
    given = common.parser(__doc__ or "").parse_args()
    common.finish(rows(given), given)


if __name__ == "__main__":
    main()
