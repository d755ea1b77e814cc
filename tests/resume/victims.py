"""The runs that `test_kill.py` kills: short ones of the built-in recipes, and two whose noise is easy to lose."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers import Mlp, points
from torch import Tensor

import lehr
from lehr.base.settings import override
from lehr.checkpoint.store import CheckpointStore
from lehr.data.digits import DigitsData
from lehr.data.pairs import PairData
from lehr.data.text import TextData
from lehr.losses import Supervised, cross_entropy
from lehr.recipes import digits as digits_recipe
from lehr.recipes import gpt_text as gpt_recipe
from lehr.recipes import translate as translate_recipe
from lehr.run.recipe import Evaluate, Recipe, Save, Track

torch.set_num_threads(1)
__all__ = ["DigitsData", "PairData", "TextData"]

EVERY = ["threads=1", "save.every=5", "evaluate.every=10", "track.every=2"]


class Drawing(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Draws from `random`, NumPy and torch whenever a sample is read."""

    def __init__(self) -> None:
        self.x, self.y = points(96)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = random.gauss(0, 0.1) + float(np.random.normal(0, 0.1)) + 0.1 * torch.randn(())
        return self.x[index] + noise, self.y[index]


def drawing() -> Recipe:
    return _small(lehr.Data(train=Drawing(), val=points(20, seed=1), batch_size=8), steps=60)


def noisy() -> Recipe:
    """Dropout and batch norm on tensors in memory, with short last batches."""
    return _small(lehr.Data(train=points(300), val=points(20, seed=1), batch_size=16), steps=400)


def digits() -> Recipe:
    return override(digits_recipe.recipe(), [*EVERY, "steps=40", "data.batch_size=32"])


def translate() -> Recipe:
    small = ["model.width=16", "model.heads=2", "model.depth=1", "steps=40", "data.batch_size=16"]
    return override(translate_recipe.recipe(), [*EVERY, *small])


def gpt_text() -> Recipe:
    small = ["model.width=32", "model.heads=2", "model.depth=2", "data.context=32", "data.batch_size=8", "steps=60"]
    return override(gpt_recipe.recipe(), [*EVERY, *small, f"data.path={Path(__file__).with_name('test_kill.py')}"])


def _small(data: lehr.Data, steps: int) -> Recipe:
    return Recipe(
        model=Mlp,
        data=data,
        objective=Supervised(loss=cross_entropy),
        metrics=("accuracy",),
        steps=steps,
        threads=1,
        evaluate=Evaluate(every=10),
        save=Save(every=5),
        track=Track(every=2),
    )


def live(run: Path, name: str, overrides: list[str]) -> None:
    """Train or go on, as a process that may be killed; ``run``.marks gets a ``<`` and a ``>`` around each save."""
    multiprocessing.set_start_method("fork", force=True)  # of DataLoader workers, as without a fork server
    log = os.open(run.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    marks = os.open(run.with_suffix(".marks"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    save = CheckpointStore.save

    def marked(self: CheckpointStore, step: int, parts: Mapping[str, Any], **given: Any) -> Path:
        os.write(marks, b"<")
        try:
            return save(self, step, parts, **given)
        finally:
            os.write(marks, b">")

    CheckpointStore.save = marked  # type: ignore[method-assign]
    if (run / "recipe.json").is_file():
        lehr.resume(run)
    else:
        lehr.train(f"{__file__}:{name}", run_dir=run, overrides=overrides)
    sys.stdout.flush()


def saving(folder: Path, told: Path, first: int) -> None:
    """Save a megabyte again and again; ``told`` gets a ``<`` and a ``>`` around each save."""
    store = CheckpointStore(folder, keep=2)
    store.clean()
    marks = os.open(told, os.O_WRONLY | os.O_APPEND)
    for step in range(first, first + 10_000):
        content = {"model": {"w": torch.full((250_000,), float(step))}}
        os.write(marks, b"<")
        store.save(step, content)
        os.write(marks, b">")
