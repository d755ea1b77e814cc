"""A finished or interrupted run, opened to look at: its recipe, its data, its model with saved weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lehr.base.errors import LehrWarning, SettingError
from lehr.base.settings import override
from lehr.checkpoint.store import CheckpointStore, Found
from lehr.data.data import Splits
from lehr.data.validation import validation_batches
from lehr.dist.ranks import Ranks
from lehr.run.assemble import build_model, pick_device
from lehr.run.folder import RunFolder
from lehr.run.recipe import Recipe
from lehr.run.resume import changed_data, made_again
from lehr.training.evaluate import check_metrics, evaluate
from lehr.training.precision import autocast
from lehr.training.state import ModelState

__all__ = ["OpenedRun", "open_run"]


@dataclass(frozen=True, kw_only=True)
class OpenedRun:
    """A run's model as a checkpoint has it."""

    recipe: Recipe
    facts: Mapping[str, Any]
    model: nn.Module
    step: int
    device: torch.device

    def evaluate(self, *, split: Literal["train", "val"] = "val") -> dict[str, float]:
        """Return the loss and all metrics, the dear ones too, over one side of the data."""
        splits = self.recipe.data.open()
        given = splits.val if split == "val" else splits.train
        if given is None:
            raise SettingError("this recipe has no validation data; use --split train")
        changed = changed_data(self.facts, splits.facts)
        if changed:
            warnings.warn(f"this is not the data of the run: {'; '.join(changed)[:300]}", LehrWarning, stacklevel=2)
        metrics = [metric.on(self.facts) for metric in self.recipe.metrics]
        check_metrics(metrics, self.recipe.objective)
        batches = validation_batches(given, self.recipe.data, seed=self.recipe.seed, device=self.device)
        return evaluate(
            self.model,
            self.recipe.objective,
            batches(None),
            metrics,
            autocast=autocast(self.recipe.precision, self.device.type),
            device=self.device,
            seed=self.recipe.seed,
        )


def open_run(
    run: str | Path,
    *,
    which: Literal["best", "last"] = "best",
    recipe: Recipe | None = None,
    overrides: Sequence[str] = (),
) -> OpenedRun:
    """Return a run's model with the weights of its best or its last checkpoint, ready for evaluation or sampling."""
    folder = RunFolder(Path(run))
    saved = folder.read_recipe()
    made, _origin = made_again(folder, saved, recipe)
    made = override(made, overrides)
    found = _checkpoint(folder, made, which)
    device = pick_device(made.device, Ranks())
    model = build_model(made, Splits(train=None, facts=saved["facts"]))
    store = CheckpointStore(folder.checkpoints)
    ModelState(model).load_state_dict(store.read(found)["model"])
    model.to(device).eval()
    return OpenedRun(recipe=made, facts=saved["facts"], model=model, step=found.step, device=device)


def _checkpoint(folder: RunFolder, recipe: Recipe, which: str) -> Found:
    goals = {metric.name: metric.goal for metric in recipe.metrics}
    monitor = recipe.evaluate.monitor
    store = CheckpointStore(folder.checkpoints, goal=goals.get(monitor, "min"), monitor=monitor)
    found = store.best() if which == "best" else store.newest()
    if found is None:
        raise SettingError(f"{folder} has no checkpoint yet; resume it with `lehr resume {folder}`")
    return found
