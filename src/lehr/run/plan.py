"""What the rates of a recipe will be: its data is opened and its model made, nothing is trained or written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lehr.data.opening import training_loader
from lehr.optim.built import as_optimizers
from lehr.optim.sgd import VelocitySGD
from lehr.reporting.curve import BY_EVALUATIONS, Curve
from lehr.run.assemble import build_model
from lehr.run.checks import materialize
from lehr.run.pace import lengths, resolve_momentum, resolve_schedule, resolve_watchers
from lehr.run.recipe import Recipe

__all__ = ["planned_curve"]

PLAIN = (torch.optim.SGD, VelocitySGD)
"""The optimizers that the temperature is derived for."""


def planned_curve(recipe: Recipe, name: str) -> Curve:
    """Return the rate of the recipe's first group over its run: what is recorded as ``lr``.

    The length of an epoch is in the data, and the base rates are in the groups of the optimizers over the model.
    """
    splits = recipe.data.open()
    loader = training_loader(splits.train, recipe.data, seed=recipe.seed)
    run, _ = lengths(recipe, loader, splits.facts)
    model = build_model(recipe, splits)
    materialize(recipe, model, loader)
    optimizers = as_optimizers(recipe.optim.build(model), type(recipe.optim).__name__)
    schedule, momentum = resolve_schedule(recipe, run), resolve_momentum(recipe, run, optimizers)
    group = optimizers[0].param_groups[0]
    return Curve(
        name=name,
        schedule=schedule,
        steps=run.steps,
        rate=float(group["lr"]),
        batch_size=loader.batch_size,
        momentum=momentum or _momentum(group),
        other=None if isinstance(optimizers[0], PLAIN) else type(optimizers[0]).__name__,
        notes=_notes(optimizers, by_evaluations=bool(resolve_watchers(recipe, schedule, optimizers, splits))),
    )


def _momentum(group: dict[str, Any]) -> float:
    """Return the momentum of a group; ``betas[0]`` is that of the Adam family."""
    return float(group["betas"][0]) if "betas" in group else float(group.get("momentum", 0.0))


def _notes(optimizers: Sequence[torch.optim.Optimizer], *, by_evaluations: bool) -> tuple[str, ...]:
    rates = [f"{type(o).__name__} {group['lr']:.4g}" for o in optimizers for group in o.param_groups]
    others = list(dict.fromkeys(rate for rate in rates if rate != rates[0]))
    notes = []
    if others:
        shown = ", ".join(others[:6]) + (f" and {len(others) - 6} more" if len(others) > 6 else "")
        notes.append(f"drawn is the base rate of the first group, {rates[0]}; the others follow: {shown}")
    if by_evaluations:
        notes.append(BY_EVALUATIONS)
    return tuple(notes)
