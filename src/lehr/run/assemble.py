"""From a recipe to a loop: the only file that knows every concrete class. The order of its lines matters."""

from __future__ import annotations

import functools
import gc
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lehr.base import seeds
from lehr.base.durations import RunLength
from lehr.base.errors import LehrError, RecipeFileError, SettingError, StopRun
from lehr.base.optional import need
from lehr.base.protocols import Averaged, Batch, Loader, Method, MethodSettings, Observer, RunContext, Stateful, Tracker
from lehr.checkpoint.store import CheckpointStore
from lehr.checkpoint.weights import load_weights
from lehr.data.data import Splits
from lehr.data.opening import training_loader
from lehr.data.shard import Shard
from lehr.data.validation import training_batches, validation_batches
from lehr.dist.ranks import Ranks
from lehr.dist.wrap import share_gradients
from lehr.losses.objective import Objective
from lehr.metrics.metric import Metric
from lehr.optim.built import as_optimizers
from lehr.optim.state import NamedState
from lehr.run.agreement import agree_on_stop
from lehr.run.checks import materialize, preflight, preflight_mixed, warn_of_no_effect
from lehr.run.environment import describe_environment
from lehr.run.folder import RunFolder
from lehr.run.pace import lengths, resolve_momentum, resolve_schedule, resolve_watchers
from lehr.run.passes import as_called, lay_out
from lehr.run.recipe import ModelSettings, Recipe
from lehr.run.saver import Saver
from lehr.track.guard import Guarded
from lehr.track.jsonl import JsonlTracker
from lehr.track.tensorboard import TensorBoardTracker
from lehr.training.buffers import KeptBuffers
from lehr.training.clock import Clock
from lehr.training.compiled import CompileWatch
from lehr.training.evaluate import check_metrics, evaluate, evaluate_averages
from lehr.training.events import Listeners
from lehr.training.loop import Loop
from lehr.training.methods.lora import LoRA
from lehr.training.precision import autocast, scaler, warn_of_low_precision_weights
from lehr.training.records import TrainingRecords
from lehr.training.scores import Scores
from lehr.training.state import ModelState, TrainedWeights
from lehr.training.steps.eager import EagerStep
from lehr.training.steps.latch import Latch, can_mask
from lehr.training.steps.whole import WholeStep
from lehr.training.stopping import Stopping
from lehr.training.structure import Structure
from lehr.training.trouble import Trouble
from lehr.training.untrained import Untrained
from lehr.training.window import Window

__all__ = ["Assembly", "assemble", "begin_with_weights", "build_model", "pick_device"]

Validate = Callable[..., dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """A run that is ready to start, and nothing has been written yet."""

    recipe: Recipe
    splits: Splits
    run: RunLength
    model: nn.Module
    loop: Loop
    saver: Saver
    validate: Validate | None
    """``(limit, asked)`` -> values: validates on all data, or on ``limit`` batches of it; ``asked()`` says whether a
    stop is wanted by now."""
    environment: dict[str, Any]
    averages: Sequence[Averaged]
    """What keeps other weights of the model than those that are trained."""
    compiled: CompileWatch | WholeStep | None
    weights_line: str | None
    """What was loaded from `Recipe.weights`."""


def assemble(recipe: Recipe, *, ranks: Ranks, folder: RunFolder | None, observers: Sequence[Observer] = ()) -> Assembly:
    """Put a run together and check it on its first batch. Nothing is written before `Assembly.loop` runs.

    ``observers`` look on beside those of the recipe.
    """
    device = pick_device(recipe.device, ranks)
    if recipe.track.tensorboard:
        need("tensorboard", extra="track", why="tracking with TensorBoard")
    # the data first: models and lengths depend on it, and most mistakes are in it
    splits = recipe.data.open()
    shard = Shard(ranks.rank, ranks.world)
    loader = training_loader(splits.train, recipe.data, seed=recipe.seed, shard=shard, device=device)
    run, every = lengths(recipe, loader, splits.facts)
    total_steps = run.steps
    warn_of_no_effect(recipe, splits, loader)
    stopping = _stopping(recipe, splits, run)
    monitor, goal = stopping.monitor, stopping.goal
    store = CheckpointStore(folder.checkpoints, keep=recipe.save.keep, goal=goal, monitor=monitor) if folder else None
    # the model under its own seed, so that its weights depend on nothing else
    model = build_model(recipe, splits).to(device)
    materialize(recipe, model, loader)
    lay_out(recipe, model, device)
    weights_line = None
    begun = bool(store and store.paths())  # a run that is gone on with has its own, but for what LoRA leaves out
    if recipe.weights and not (begun and not any(isinstance(method, LoRA) for method in recipe.methods)):
        weights_line = begin_with_weights(recipe, model)
    warn_of_low_precision_weights(model)
    # the optimizers after the move and the shapes, since they hold the parameters themselves
    built = recipe.optim.build(model)
    if not any(p.requires_grad for p in model.parameters()):
        raise SettingError("optim.rules freeze every parameter, so nothing would be trained; leave some of them out")
    optimizers = as_optimizers(built, type(recipe.optim).__name__)
    schedule = resolve_schedule(recipe, run)
    momentum = resolve_momentum(recipe, run, optimizers)
    structure = Structure(model, optimizers)
    watchers = resolve_watchers(recipe, schedule, optimizers, splits)
    cast = autocast(recipe.precision, device.type)
    metrics = tuple(m.on(splits.facts) for m in recipe.metrics if m.of != "model")
    check_metrics(metrics, recipe.objective)
    # the first batch through the model before it is compiled or wrapped, while errors still read well
    passes = as_called(recipe, model, world=ranks.world)
    preflight(recipe, passes, loader, metrics, cast, device)
    compiled = CompileWatch(passes, recipe.compile) if recipe.compile else None
    called = compiled.called if compiled else passes
    context = RunContext(
        model=model,
        run=run,
        optimizers=optimizers,
        structure=structure,
        facts=splits.facts,
        seed=recipe.seed,
        rank=ranks.rank,
        world=ranks.world,
        objective=recipe.objective,
        autocast=cast,
        batches=training_batches(splits.train, recipe.data, seed=recipe.seed, shard=shard, device=device),
    )
    methods = build_methods(recipe.methods, context)
    preflight_mixed(recipe, model, loader, methods, cast)
    averages = [kept for kept in (*optimizers, *methods) if isinstance(kept, Averaged)]
    listeners = Listeners([*methods, *watchers, stopping, *([compiled] if compiled else []), *observers])
    # sharing gradients last: it hooks into the parameters as they now are
    shared = share_gradients(called, ranks, device)

    make = WholeStep if recipe.step == "whole" else EagerStep
    update = make(
        model=model,
        called=shared,
        objective=recipe.objective,
        optimizers=optimizers,
        schedule=schedule,
        momentum=momentum,
        listeners=listeners,
        noise=seeds.address(recipe.seed, "noise", ranks.rank),
        device=device,
        autocast=cast,
        scaler=scaler(recipe.precision, device.type),
        clip=recipe.clip,
        accumulate=recipe.accumulate,
        ranks=ranks,
        buffers=KeptBuffers(model),
        reference=loader.batch_size,
        latch=_latch(recipe, device, optimizers, listeners, loader),
        untrained=Untrained(model, optimizers),
    )
    structure.follow(update.take_hold)
    if ranks.world > 1:
        structure.follow(functools.partial(_share_anew, update, called))
    clock, window = Clock(), Window()
    scores = Scores(monitor=monitor, goal=goal)
    # weights that are only cast for the passes are evaluated as they are saved
    evaluated = called if passes is model else model
    validate = _validation(recipe, splits, evaluated, metrics, averages, ranks=ranks, device=device, cast=cast)
    environment = describe_environment(device=device, compiled=recipe.compile, world_size=ranks.world)
    in_place = [average for average in averages if not average.prefix]
    parts: dict[str, Stateful] = {
        **({"structure": structure} if structure.changes else {}),  # first: the others have to fit it
        "model": ModelState(model, in_place, structure.left_out),
        **({"trained": TrainedWeights(model)} if in_place else {}),
        "optimizer": NamedState(model, optimizers),
        "loader": loader,
        "clock": clock,
        "window": window,
        "scores": scores,
        "listeners": listeners,
    }
    if update.scaler is not None:
        parts["scaler"] = update.scaler
    saver = Saver(store, parts, ranks=ranks, note=environment | {"monitor": monitor}, keeps=every.keeps)
    trouble = Trouble(
        nonfinite=recipe.nonfinite,
        max_in_a_row=recipe.max_skipped,
        model=model,
        objective=recipe.objective,
        loader=loader,
        update=update,
        evidence=folder.failure if folder and ranks.main else None,
    )
    loop = Loop(
        update=update,
        loader=loader,
        listeners=listeners,
        trackers=[],
        trouble=trouble,
        total_steps=total_steps,
        every=every,
        describe=TrainingRecords(update, metrics, tokens=counts_tokens(recipe.objective)),
        evaluate=functools.partial(validate, recipe.evaluate.batches, lambda: listeners.stop_asked)
        if validate
        else None,
        save=saver,
        save_best=recipe.save.best,
        agree=functools.partial(agree_on_stop, ranks=ranks, device=device),
        clock=clock,
        window=window,
        scores=scores,
    )
    return Assembly(
        recipe=recipe,
        splits=splits,
        run=run,
        model=model,
        loop=loop,
        saver=saver,
        validate=validate,
        environment=environment,
        averages=averages,
        compiled=update if isinstance(update, WholeStep) else compiled,
        weights_line=weights_line,
    )


def open_trackers(assembly: Assembly, folder: RunFolder, ranks: Ranks, *, resumed_at: int) -> list[Tracker]:
    """Return the trackers that write to the run folder; the first, metrics.jsonl, becomes part of the run's state."""
    if not ranks.main:
        return []
    records = JsonlTracker(folder.metrics)
    assembly.saver.parts["records"] = records
    trackers: list[Tracker] = [records]
    if assembly.recipe.track.tensorboard:
        trackers.append(Guarded(TensorBoardTracker(folder.path / "tensorboard", purge_step=resumed_at + 1)))
    return trackers


def pick_device(name: str, ranks: Ranks) -> torch.device:
    """Return the device that a recipe names; "auto" is an accelerator where there is one.

    >>> pick_device("cpu", Ranks())
    device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if re.fullmatch(r"cpu|mps|cuda(:\d+)?", name) is None:
        raise SettingError(f"device={name!r} is no device; use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'")
    device = torch.device(name)
    if device.type == "cuda" and torch.cuda.is_available() and (device.index or 0) >= torch.cuda.device_count():
        raise SettingError(f"device={name!r}, but this machine has {torch.cuda.device_count()} of them, from cuda:0 on")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingError(f"device={name!r}, but this machine has no CUDA device that torch can use; use device=cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingError(f"device={name!r}, but this machine has no MPS device that torch can use; use device=cpu")
    return torch.device("cuda", ranks.local_rank) if str(device) == "cuda" else device


def begin_with_weights(recipe: Recipe, model: nn.Module) -> str | None:
    """Load `Recipe.weights`, if there are any; returns what was loaded."""
    if not recipe.weights:
        return None
    path = _weights(recipe.weights() if callable(recipe.weights) else recipe.weights)
    return load_weights(model, path, allow=recipe.weights_allow, leave=recipe.weights_leave)


def _weights(path: Path) -> Path:
    """Return where the weights are: in a run, those of its newest checkpoint."""
    folder = RunFolder(path)
    if not folder.recipe.is_file():
        return path
    found = CheckpointStore(folder.checkpoints).newest()
    if found is None:
        raise SettingError(f"weights={str(path)!r} is a run without a checkpoint; resume it, or give another one")
    return found.path


def build_methods(given: Sequence[Any], context: RunContext) -> list[Method | Observer]:
    """Return the methods and observers of a run, in the order given."""
    return [m.build(context) if isinstance(m, MethodSettings) else m for m in given]


def build_model(recipe: Recipe, splits: Splits) -> nn.Module:
    """Return the recipe's model with its initial weights, which follow from the seed alone."""
    with seeds.seeded(recipe.seed, "init"):
        try:
            model = recipe.model.build(splits.facts) if isinstance(recipe.model, ModelSettings) else recipe.model()
        except LehrError:
            raise
        except KeyError as missing:
            raise SettingError(
                f"{type(recipe.model).__name__} needs the fact {missing} about the data, which "
                f"{type(recipe.data).__name__} does not give; it gives: {', '.join(splits.facts) or 'none'}"
            ) from None
        except Exception as error:
            raise RecipeFileError(f"making the model raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise SettingError(f"model made a {type(model).__name__}; it must make a torch.nn.Module")
    if not any(p.requires_grad for p in model.parameters()):
        raise SettingError(f"{type(model).__name__} has no parameter to train")
    return model


def _share_anew(update: EagerStep, called: nn.Module) -> None:
    """Share the gradients of the parameters as they now are."""
    update.called = called  # the old wrapper lets go of the parameters before the new one takes hold of them
    gc.collect()
    update.called = share_gradients(called, update.ranks, update.device)


def counts_tokens(objective: Objective) -> bool:
    """Whether the objective's count is a number of tokens."""
    return getattr(objective, "unit", "sample") == "token"


def _stopping(recipe: Recipe, splits: Splits, run: RunLength) -> Stopping:
    stop = recipe.stop
    if splits.val is None and (stop.val_loss is not None or stop.patience is not None):
        raise SettingError("stop.val_loss and stop.patience need validation data; give Data(val=...)")
    return Stopping(stop, monitor=recipe.evaluate.monitor, goal=recipe.goal, min_steps=stop.min_steps.steps(run))


def _latch(
    recipe: Recipe,
    device: torch.device,
    optimizers: list[torch.optim.Optimizer],
    listeners: Listeners,
    loader: Loader,
) -> Latch | None:
    """Return a latch where the finite check is to be read at records only, and everything can be masked until then."""
    wanted = recipe.track.read
    if wanted == "step" or (wanted == "auto" and device.type == "cpu"):
        return None
    obstacles = {
        "step=whole masks updates by itself": recipe.step == "whole",
        "precision=fp16 reads its scale at each step": recipe.precision == "fp16",
        "nonfinite=skip needs to know at each step": recipe.nonfinite == "skip",
        "the data cannot be gone back to": not loader.seekable,
        "an optimizer has no kernel that can be masked": not can_mask(optimizers),
        "the decay of a product cannot be masked": any(g.get("frobenius") for o in optimizers for g in o.param_groups),
        "a method changes gradients or the model": bool(listeners.grads_ready or listeners.model_changes),
    }
    present = [reason for reason, holds in obstacles.items() if holds]
    if present and wanted == "record":
        raise SettingError(f"track.read=record is not possible here: {present[0]}; use track.read=auto")
    return None if present else Latch(device)


def _until_preempted(batches: Iterable[Batch], asked: Callable[[], str | None]) -> Iterator[Batch]:
    """Yield ``batches`` until the process is asked to end: an evaluation may last longer than it is given."""
    for batch in batches:
        if asked() == "preempted":
            raise StopRun("preempted")
        yield batch


def _validation(
    recipe: Recipe,
    splits: Splits,
    model: nn.Module,
    metrics: tuple[Metric, ...],
    averages: Sequence[Averaged],
    *,
    ranks: Ranks,
    device: torch.device,
    cast: Callable[[], Any],
) -> Validate | None:
    if splits.val is None:
        return None
    shard = Shard(ranks.rank, ranks.world)
    batches = validation_batches(splits.val, recipe.data, seed=recipe.seed, shard=shard, device=device)

    def validate(limit: int | None, asked: Callable[[], str | None] = lambda: None) -> dict[str, float]:
        def once() -> dict[str, float]:
            chosen = _until_preempted(batches(limit), asked) if ranks.world == 1 else batches(limit)
            return evaluate(
                model,
                recipe.objective,
                map(CompileWatch.any_size, chosen) if recipe.compile not in (False, "blocks") else chosen,
                metrics,
                autocast=cast,
                ranks=ranks,
                device=device,
                seed=recipe.seed,
            )

        return evaluate_averages(once, averages)

    return validate
