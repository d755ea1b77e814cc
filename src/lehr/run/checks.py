"""What is said before the first step: settings without a use, and a first batch that does not fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lehr.base import seeds
from lehr.base.batches import split
from lehr.base.errors import LehrError, LehrWarning, NoEffectWarning, SettingError
from lehr.base.modes import evaluation_mode
from lehr.base.protocols import Batch, Loader
from lehr.data.copy_ahead import reader
from lehr.data.data import Splits
from lehr.data.stream import StreamLoader
from lehr.losses.objective import Supervised
from lehr.metrics.metric import Metric
from lehr.run.recipe import Evaluate, ModelSettings, Recipe
from lehr.training.buffers import KeptBuffers
from lehr.training.methods.lora import LoRA
from lehr.training.methods.mixing import Mixing
from lehr.training.precision import warn_if_bf16_is_slower
from lehr.training.preflight import check_batch

__all__ = ["materialize", "preflight", "preflight_mixed", "warn_of_no_effect"]


def warn_of_no_effect(recipe: Recipe, splits: Splits, loader: Loader) -> None:
    """Name the settings that were given, but for which this run has no use."""
    data, evaluation, stop = recipe.data, recipe.evaluate, recipe.stop
    unused: dict[str, list[tuple[str, bool]]] = {
        "there is no validation data": [
            ("data.val_batch_size", splits.val is None and data.val_batch_size is not None),
            ("evaluate.every", splits.val is None and evaluation.every != Evaluate().every),
            ("evaluate.batches", splits.val is None and evaluation.batches is not None),
            ("evaluate.monitor", splits.val is None and evaluation.monitor != Evaluate().monitor),
        ],
        "the data is no stream, and is gone on with where it stopped": [
            ("data.replay", data.replay and not isinstance(reader(loader), StreamLoader))
        ],
        "nothing stops early without stop.patience": [("stop.min_delta", stop.min_delta > 0 and stop.patience is None)],
        "nothing stops early without stop.patience or stop.val_loss": [
            ("stop.min_steps", stop.min_steps.value > 0 and stop.patience is None and stop.val_loss is None)
        ],
        "no weights are loaded": [
            ("weights_allow", bool(recipe.weights_allow) and recipe.weights is None),
            ("weights_leave", bool(recipe.weights_leave) and recipe.weights is None),
        ],
    }
    if (
        any(isinstance(m, LoRA) for m in recipe.methods)
        and recipe.weights is None
        and isinstance(recipe.model, ModelSettings)
    ):
        warnings.warn(
            "lora trains small changes of a trained model, but this one has its initial weights, and they are frozen; "
            "give weights=RUN or weights=FILE",
            LehrWarning,
            stacklevel=3,
        )
    for why, settings in unused.items():
        names = [name for name, holds in settings if holds]
        if names:
            verb = "has" if len(names) == 1 else "have"
            warnings.warn(f"{', '.join(names)} {verb} no effect: {why}", NoEffectWarning, stacklevel=3)


def materialize(recipe: Recipe, model: nn.Module, loader: Loader) -> None:
    """Give lazy modules their shapes by the first batch, before anything holds their parameters.

    Their weights follow from the seed, like those of all others; the loader is put back before the batch.
    """
    if not _without_shape(model):
        return
    start = loader.state_dict()
    with seeds.isolated_global_generators():
        batch: Batch = split(next(loader), recipe.accumulate)[0]
    loader.load_state_dict(start)
    run = recipe.objective.outputs if isinstance(recipe.objective, Supervised) else recipe.objective
    try:
        with seeds.seeded(recipe.seed, "init", "lazy"), evaluation_mode(model):
            run(model, batch)
    except LehrError:
        raise
    except Exception as error:
        raise SettingError(
            f"{type(model).__name__} has lazy modules, which the first batch is to give their shapes, but it failed on "
            f"it: {type(error).__name__}: {error}"
        ) from error
    left = _without_shape(model)
    if left:
        raise SettingError(
            f"the first batch did not reach {left[0]!r}, which is lazy and so still has no shape; give it one "
            "where the model is made, or remove it"
        )


def _without_shape(model: nn.Module) -> list[str]:
    return [name for name, value in (*model.named_parameters(), *model.named_buffers()) if is_lazy(value)]


def _has_trainable(module: nn.Module) -> bool:
    """Whether a module has parameters of its own that train: a frozen norm is in evaluation mode on purpose."""
    return any(parameter.requires_grad for parameter in module.parameters(False))


def preflight(
    recipe: Recipe,
    model: nn.Module,
    loader: Loader,
    metrics: Sequence[Metric],
    cast: Callable[[], Any],
    device: torch.device,
) -> None:
    """Try the first batch, and put the loader back before it."""
    in_eval = [name for name, m in model.named_modules() if not m.training and _has_trainable(m)]
    if in_eval:
        warnings.warn(
            f"{len(in_eval)} modules with parameters are in evaluation mode (first: {in_eval[0] or 'the model'!r}) and "
            "stay so; call model.train() where the model is made if that is not meant",
            LehrWarning,
            stacklevel=3,
        )
    start = loader.state_dict()
    with seeds.isolated_global_generators():
        batch: Batch = split(next(loader), recipe.accumulate)[0]  # as much as a step holds at once
        counted = check_batch(model, recipe.objective, batch, ids=loader.ids, autocast=cast, metrics=metrics)
        if recipe.precision == "bf16" and device.type == "cpu":
            kept = KeptBuffers(model)
            kept.keep()
            warn_if_bf16_is_slower(recipe.objective, model, batch)
            kept.put_back()
    loader.load_state_dict(start)
    if recipe.accumulate > 1 and not counted:
        warnings.warn(
            "the loss does not say how many things it counted, so its mean is weighed by the number of samples in each "
            "microbatch: exact when all samples weigh the same, but not with masks. Return (sum, count) to be exact",
            LehrWarning,
            stacklevel=3,
        )


def preflight_mixed(
    recipe: Recipe, model: nn.Module, loader: Loader, methods: Sequence[Any], cast: Callable[[], Any]
) -> None:
    """Try the first batch as each mixing method gives it, which a rare one would do only late in the run."""
    mixings = [method for method in methods if isinstance(method, Mixing)]
    if not mixings:
        return
    start = loader.state_dict()
    with seeds.isolated_global_generators():
        batch: Batch = split(next(loader), recipe.accumulate)[0]
        for mixing in mixings:
            try:
                check_batch(model, recipe.objective, mixing.first(batch), ids=loader.ids, autocast=cast)
            except LehrError as error:
                raise type(error)(f"the first batch with {mixing.name}: {error}") from error
    loader.load_state_dict(start)
