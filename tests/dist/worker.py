"""What the processes of `test_dist.py` run; started by torchrun."""

from __future__ import annotations

import atexit
import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers import Mlp, Tagger, points, recipe, run_steps

import lehr
from lehr.base.errors import StopRun
from lehr.base.protocols import Method, Observer, Place
from lehr.losses import Supervised, cross_entropy
from lehr.run.recipe import Evaluate, Recipe, Save, Track
from lehr.training.methods import SWA, DynamicLowRank, ProgressiveLowRank

PAD = -1


def ragged(n: int = 16, length: int = 9) -> tuple[Tensor, Tensor]:
    """Sequences of very different lengths; the second half has far more targets than the first."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 7, (n, length), generator=generator)
    target = torch.randint(0, 5, (n, length), generator=generator)
    lengths = torch.cat([torch.ones(n // 2), torch.full((n - n // 2,), length)]).long()
    lengths[0] = 0
    target[torch.arange(length)[None] >= lengths[:, None]] = PAD
    return ids, target


class Gradients(Method):
    """Keeps the gradients of each update."""

    changes = frozenset({"gradients"})

    def __init__(self) -> None:
        self.kept: list[dict[str, Tensor]] = []

    def grads_ready(self, model: nn.Module, place: Place) -> None:
        self.kept.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})


class StopOnOneRank(Observer):
    """Asks for a stop on the last rank only, and not at a moment of agreement."""

    def step_end(self, place: Place) -> None:
        if torch.distributed.get_rank() == torch.distributed.get_world_size() - 1 and place.step == 3:
            raise StopRun("enough")


def tagging(accumulate: int = 1, batch_size: int = 16, **changes: Any) -> Recipe:
    return recipe(
        model=Tagger,
        data=lehr.Data(train=ragged(), val=ragged(10), batch_size=batch_size, shuffle=False),
        objective=Supervised(loss=functools.partial(cross_entropy, ignore=PAD), unit="token"),
        **{"metrics": ("perplexity",), "accumulate": accumulate, "clip": 0.05, "track": Track(every=1)} | changes,
    )


def gradients(folder: Path) -> None:
    method = Gradients()
    trainer = lehr.Trainer(tagging(accumulate=4, steps=3, methods=(method,)), run_dir=folder / "run")
    result = trainer.fit()
    torch.save(method.kept, folder / f"gradients-{trainer.ranks.rank}.pt")
    torch.save(dict(trainer.model.state_dict()), folder / f"weights-{trainer.ranks.rank}.pt")
    (folder / f"result-{trainer.ranks.rank}.json").write_text(json.dumps(result.plain()))


def one_rank_wants_to_stop(folder: Path) -> None:
    trainer = lehr.Trainer(recipe(methods=(StopOnOneRank(),), model=lambda: Mlp(dropout=0.0)), run_dir=folder / "run")
    result = trainer.fit()
    (folder / f"stopped-{trainer.ranks.rank}.json").write_text(json.dumps([result.stopped, result.step]))


def averages(folder: Path) -> None:
    """The model with the average in it, whose batch norm is made anew on each rank's part of the batches."""
    made = recipe(model=lambda: Mlp(dropout=0.0), methods=(SWA(start=2, every=2, batches=5),), steps=6)
    trainer = lehr.Trainer(made, run_dir=folder / "run")
    trainer.fit()
    swa = next(m for m in trainer.loop.listeners.given if hasattr(m, "put_in"))
    with swa.put_in():
        torch.save(trainer.model.state_dict(), folder / f"averaged-{trainer.ranks.rank}.pt")


def hidden() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3)).double()


def exchanging(kind: str) -> Recipe:
    """A switch to two factors, and ranks that fall and rise, in double precision."""
    x, y = points()
    methods = {
        "progressive": ProgressiveLowRank(at=4, ratio=0.25, layers=("2",), batches=2, allowed=9.0, rewarm=2),
        "settling": ProgressiveLowRank(at=None, look=1, window=2, tolerance=0.5, layers=("2",), batches=2, allowed=9.0),
        "dynamic": DynamicLowRank(levels=((0, 0.4), (3, 0.2), (6, 0.3)), layers=("2",), batches=6),
    }
    return recipe(
        model=hidden,
        data=lehr.Data(train=(x.double(), y), val=(x[:16].double(), y[:16]), batch_size=8),
        methods=(methods[kind],),
        steps=10,
        save=Save(every=3, keep=9),
    )


def exchange(folder: Path) -> None:
    # what is registered before the group is joined is called after the group was left
    threads = folder / f"threads-{os.environ['RANK']}.txt"
    atexit.register(lambda: threads.write_text(str(len(list(Path("/proc/self/task").glob("*"))))))
    for kind in ("progressive", "settling", "dynamic"):
        trainer = lehr.Trainer(exchanging(kind), run_dir=folder / kind)
        trainer.fit()
        torch.save(dict(trainer.model.state_dict()), folder / f"{kind}-{trainer.ranks.rank}.pt")


def exchange_resumed(folder: Path) -> None:
    for kind in ("progressive", "settling", "dynamic"):
        lehr.resume(folder / kind, recipe=exchanging(kind))


def keys(folder: Path) -> None:
    """Save after three of six steps; with and without compiling."""
    for compiled in (False, True):
        trainer = lehr.Trainer(six_steps(compiled), run_dir=folder / f"ddp-{compiled}")
        run_steps(trainer, 4)


def cross(folder: Path) -> None:
    """Go on, in these processes, with what all kinds of run have saved."""
    for run in sorted(folder.glob("*-to-ddp-*")):
        result = lehr.resume(run, recipe=six_steps(run.name.endswith("True")), allow_changes=True)
        assert result.step == 6


def six_steps(compiled: bool) -> Recipe:
    return recipe(
        model=lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)),
        data=lehr.Data(train=points(), val=points(16, seed=1), batch_size=8),
        metrics=(),
        compile=compiled,
        save=Save(every=3),
        evaluate=Evaluate(every=100),
        steps=6,
    )


def gives_up(folder: Path) -> None:
    """A sample that is not finite lies in one rank's part of the third batch."""
    x, y = points()
    x[20] = float("nan")
    trainer = lehr.Trainer(
        recipe(data=lehr.Data(train=(x, y), batch_size=8, shuffle=False), model=lambda: Mlp(dropout=0.0)),
        run_dir=folder / "run",
    )
    try:
        trainer.fit()
    except lehr.base.errors.NonFiniteError as error:
        (folder / f"error-{trainer.ranks.rank}.txt").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    globals()[sys.argv[1]](Path(sys.argv[2]))
