"""A finished or interrupted run, opened to look at: its recipe, its data, its model with saved weights."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lehr.base.durations import RunLength
from lehr.base.errors import LehrWarning, SettingError
from lehr.base.protocols import Averaged, RunContext
from lehr.base.settings import override
from lehr.checkpoint.store import CheckpointStore, Found
from lehr.data.data import Splits
from lehr.data.validation import training_batches, validation_batches
from lehr.dist.ranks import Ranks
from lehr.losses.objective import Objective
from lehr.metrics.metric import Metric
from lehr.run.assemble import begin_with_weights, build_methods, build_model, pick_device
from lehr.run.folder import RunFolder
from lehr.run.recipe import Recipe
from lehr.run.resume import changed_data, made_again
from lehr.training.evaluate import check_metrics, evaluate, evaluate_averages, put_in, weights_of
from lehr.training.events import Listeners
from lehr.training.precision import autocast
from lehr.training.state import ModelState
from lehr.training.structure import rebuild

__all__ = ["Measure", "OpenedRun", "open_run", "open_snapshots"]

Measure = Callable[[nn.Module, Objective, Sequence[Metric]], dict[str, float]]
"""``(model, objective, metrics)`` -> values."""


@dataclass(frozen=True, kw_only=True)
class OpenedRun:
    """A run's model as a checkpoint has it."""

    recipe: Recipe
    facts: Mapping[str, Any]
    model: nn.Module
    step: int
    device: torch.device
    averages: Sequence[Averaged] = ()
    """Other weights that the run has kept."""

    @contextlib.contextmanager
    def using(self, weights: str | None = None) -> Iterator[nn.Module]:
        """Let the model have the weights of this name within a block: "model" for its own, or "ema" and the like.

        None stands for those that the run's monitored value was measured with.
        """
        with put_in(self.averages, weights or weights_of(self.recipe.evaluate.monitor, self.averages)):
            yield self.model

    def evaluate(self, *, split: Literal["train", "val"] = "val") -> dict[str, float]:
        """Return the loss and all metrics, the dear ones too, over one side of the data, with all its weights."""
        measure = self.measuring(split)
        return evaluate_averages(lambda: measure(self.model, self.recipe.objective, self.recipe.metrics), self.averages)

    def measuring(self, split: Literal["train", "val"] = "val") -> Measure:
        """Open the data and return what measures a model on one side of it."""
        splits = self.recipe.data.open()
        given = splits.val if split == "val" else splits.train
        if given is None:
            raise SettingError("this recipe has no validation data; use --split train")
        changed = changed_data(self.facts, splits.facts)
        if changed:
            warnings.warn(f"this is not the data of the run: {'; '.join(changed)[:300]}", LehrWarning, stacklevel=2)
        check_metrics(self.recipe.metrics, self.recipe.objective)
        batches = validation_batches(given, self.recipe.data, seed=self.recipe.seed, device=self.device)

        def measure(model: nn.Module, objective: Objective, metrics: Sequence[Metric]) -> dict[str, float]:
            return evaluate(
                model,
                objective,
                batches(None),
                [metric.on(self.facts) for metric in metrics],
                autocast=autocast(self.recipe.precision, self.device.type),
                device=self.device,
                seed=self.recipe.seed,
            )

        return measure


def open_run(
    run: str | Path,
    *,
    which: Literal["best", "last"] = "best",
    recipe: Recipe | None = None,
    overrides: Sequence[str] = (),
) -> OpenedRun:
    """Return a run's model with the weights of its best or its last checkpoint, ready for evaluation or sampling."""
    folder = RunFolder(Path(run))
    saved, made = _made(folder, recipe, overrides)
    return _opened(folder, saved, made, _checkpoint(folder, made, which))


def open_snapshots(run: str | Path, *, recipe: Recipe | None = None, overrides: Sequence[str] = ()) -> list[OpenedRun]:
    """Return a run's model as each checkpoint has it that ``save.keep_every`` has kept, oldest first."""
    folder = RunFolder(Path(run))
    saved, made = _made(folder, recipe, overrides)
    kept = CheckpointStore(folder.checkpoints).kept()
    if not kept:
        raise SettingError(
            f"{folder} has kept no snapshots; train with --set save.keep_every=20%, and a schedule that restarts as "
            "often"
        )
    return [_opened(folder, saved, made, found) for found in kept]


def _made(folder: RunFolder, recipe: Recipe | None, overrides: Sequence[str]) -> tuple[dict[str, Any], Recipe]:
    saved = folder.read_recipe()
    made, _origin = made_again(folder, saved, recipe)
    return saved, override(made, overrides)


def _opened(folder: RunFolder, saved: Mapping[str, Any], made: Recipe, found: Found) -> OpenedRun:
    device = pick_device(made.device, Ranks())
    model = build_model(made, Splits(train=None, facts=saved["facts"]))
    store = CheckpointStore(folder.checkpoints)
    state = store.read(found)
    structure = state.get("structure", {})
    if structure.get("left_out"):  # they are what the run began with
        begin_with_weights(made, model)
    left_out = rebuild(model, structure)
    ModelState(model, left_out=lambda: left_out).load_state_dict(state["model"])
    model.to(device).eval()
    averages = _averages(made, model, state, saved, device)
    return OpenedRun(recipe=made, facts=saved["facts"], model=model, step=found.step, device=device, averages=averages)


def _averages(
    recipe: Recipe, model: nn.Module, state: Mapping[str, Any], saved: Mapping[str, Any], device: torch.device
) -> list[Averaged]:
    """Return what holds other weights of the model, with what a checkpoint has of them."""
    context = RunContext(
        model=model,
        run=RunLength(saved["total_steps"], saved.get("steps_per_epoch"), saved.get("tokens_per_step")),
        facts=saved["facts"],
        seed=recipe.seed,
        objective=recipe.objective,
        autocast=autocast(recipe.precision, device.type),
        batches=lambda limit: training_batches(recipe.data.open().train, recipe.data, seed=recipe.seed, device=device)(
            limit
        ),
    )
    methods = build_methods([m for m in recipe.methods if hasattr(m, "prefix")], context)
    for name, method in Listeners(methods).stateful().items():
        method.load_state_dict(state["listeners"][name])
    return [kept for kept in methods if isinstance(kept, Averaged)]


def _checkpoint(folder: RunFolder, recipe: Recipe, which: str) -> Found:
    store = CheckpointStore(folder.checkpoints, goal=recipe.goal, monitor=recipe.evaluate.monitor)
    found = store.best() if which == "best" else store.newest()
    if found is None:
        raise SettingError(f"{folder} has no checkpoint yet; resume it with `lehr resume {folder}`")
    return found
