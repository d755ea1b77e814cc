"""`Recipe`: all that describes a run, frozen and checked before any work is done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator
from torch import nn

from lehr.base.durations import Duration, DurationSetting
from lehr.base.errors import SettingError
from lehr.base.protocols import Method, MethodSettings, Observer
from lehr.base.settings import Settings
from lehr.base.tables import Table, did_you_mean
from lehr.data.data import Data
from lehr.levers.attention import Backend
from lehr.levers.recompute import How
from lehr.losses.objective import as_objective
from lehr.metrics.metric import Metric
from lehr.metrics.table import METRICS
from lehr.optim.table import OPTIMIZERS
from lehr.schedules.expression import parse
from lehr.schedules.schedule import ScheduleSettings
from lehr.schedules.table import SCHEDULES
from lehr.training.compiled import Compile
from lehr.training.methods.table import METHODS
from lehr.training.precision import Precision
from lehr.training.stopping import Stop

__all__ = ["Evaluate", "ModelSettings", "OptimizerSettings", "Recipe", "Save", "Stop", "Track"]


@runtime_checkable
class ModelSettings(Protocol):
    """Settings that become a model once the data has been opened."""

    def build(self, facts: Any) -> nn.Module:
        """Return the model for data with these facts (`Splits.facts`)."""


@runtime_checkable
class OptimizerSettings(Protocol):
    """Settings that become optimizers over a model."""

    def build(self, model: nn.Module) -> Any:
        """Return the optimizers, whose groups hold the base rates."""


class Evaluate(Settings):
    """When and on how much to validate."""

    every: DurationSetting = Duration(10, "%")
    """How often: '10%' of the run, '1 epoch', 500 steps."""
    batches: int | None = Field(default=None, ge=1)
    """Validate on so many batches, spread evenly; the end of the run has all of them."""
    monitor: str = "loss"
    """The value that best checkpoints and early stopping go by: "loss" or the name of a metric."""


class Save(Settings):
    """When checkpoints are written and which are kept. The end of a run always has one."""

    every: DurationSetting = Duration(10, "%")
    """How often."""
    keep: int = Field(default=2, ge=1)
    """How many of the newest to keep, beside the best."""
    keep_every: DurationSetting | None = None
    """How often to write a checkpoint that is never removed: the end of each cycle, for a snapshot ensemble."""
    best: bool = True
    """Whether to save whenever the monitored value is the best so far."""


class Track(Settings):
    """What is recorded, and where besides metrics.jsonl."""

    every: DurationSetting = Duration(10)
    """How often training is recorded."""
    tensorboard: bool = False
    """Whether to write TensorBoard events to the run folder."""
    read: Literal["auto", "step", "record"] = "auto"
    """When the finite check is read: at each step, or at records only with bad updates masked on the device; "auto"
    reads at each step on a CPU, where that is free, and at records where the device would have to be waited for."""


def _from_table(table: Table) -> BeforeValidator:
    def read(given: Any) -> Any:
        return table[given].make() if isinstance(given, str) else given

    return BeforeValidator(read)


def _schedule(given: Any) -> Any:
    return parse(given) if isinstance(given, str) else given


def _items(given: Any) -> Any:
    if isinstance(given, str) and "," in given:
        raise SettingError(f"this is read as one name; write several as {json.dumps(given.split(','))}")
    return given if isinstance(given, list | tuple) else [given]


def _compile(given: Any) -> Any:
    modes = ("blocks", "reduce-overhead", "max-autotune")
    if given in modes:
        return given
    try:
        return TypeAdapter(bool).validate_python(given)
    except ValidationError:
        raise ValueError(f"use true, false, {', '.join(modes)}{did_you_mean(str(given), modes)}") from None


def _methods(given: Any) -> Any:
    items = _items(given)
    made = tuple(METHODS[item].make() if isinstance(item, str) else item for item in items)
    for item in made:
        if not isinstance(item, Method | Observer | MethodSettings) or isinstance(item, type):
            raise SettingError(
                f"methods holds {item!r}, which is neither a lehr Method nor an Observer; give a name "
                f"({', '.join(METHODS)}), settings of one, or an instance of a class derived from Method or Observer"
            )
    return made


def _metrics(given: Any) -> Any:
    items = _items(given)
    return tuple(METRICS[item].make() if isinstance(item, str) else item for item in items)


def _model(given: Any) -> Any:
    if isinstance(given, nn.Module):
        raise ValueError(
            f"model is an instance of {type(given).__name__}; give what makes it, such as the class or a function, so "
            "that its initial weights follow from the seed"
        )
    return given


class Recipe(Settings):
    """A run, described. Change a field with ``--set path.to.field=value`` or by making another recipe.

    >>> import torch
    >>> data = Data(train=(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)), batch_size=2)
    >>> Recipe(model=lambda: nn.Linear(2, 2), data=data, objective=nn.CrossEntropyLoss(), epochs=1).seed
    0
    """

    exclusive = (("steps", "epochs"),)

    model: Annotated[Any, BeforeValidator(_model)]
    """What makes the model: a class or function without arguments, or settings with ``build(facts)``."""
    data: Data
    """What to train and validate on."""
    objective: Annotated[Any, BeforeValidator(as_objective)]
    """``loss(output, target)``, or ``objective(model, batch)`` returning (sum, count)."""
    metrics: Annotated[tuple[Metric, ...], BeforeValidator(_metrics)] = ()
    """What evaluations report beside the loss; names or `Metric` objects."""
    optim: Annotated[Any, _from_table(OPTIMIZERS)] = Field(default_factory=lambda: OPTIMIZERS["adamw"].make())
    """The optimizer: settings or a name."""
    schedule: Annotated[Any, BeforeValidator(_schedule)] = Field(default_factory=lambda: SCHEDULES["constant"].make())
    """The factor on the rates over the run: settings, a name, an expression such as "warmup(5%) then cosine", or a
    function of the step."""
    methods: Annotated[tuple[Any, ...], BeforeValidator(_methods)] = ()
    """Methods and observers, called in this order: names, settings or objects."""
    steps: int | None = Field(default=None, ge=1)
    """Length of the run in updates; or give epochs."""
    epochs: float | None = Field(default=None, gt=0)
    """Length of the run in passes over the training data; or give steps."""
    accumulate: int = Field(default=1, ge=1)
    """Into how many microbatches each batch is cut, to save memory; the update stays the same."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of all gradients together; None for no clipping."""
    precision: Precision = "fp32"
    """Format of the forward and backward pass: fp32; tf32 (products, on NVIDIA devices); bf16 (autocast); fp16 (with a
    gradient scaler); bf16-weights (all of the model cast once a step, with float32 masters for the update); fp8
    (products of linear layers, on NVIDIA devices from Ada on; the rest as bf16)."""
    compile: Annotated[Compile, BeforeValidator(_compile)] = False
    """Whether to compile the model's forward and backward pass: true, "blocks" (its repeated blocks, once for all of
    them), "reduce-overhead" (CUDA graphs) or "max-autotune"."""
    step: Literal["eager", "whole"] = "eager"
    """How an update is made: operation by operation, or with one compiled graph of the forward and backward pass and
    the clipping."""
    recompute: How = "nothing"
    """What of a model of repeated blocks is computed again in the backward pass, to save memory: all within its
    "blocks", or what is "cheap" there."""
    channels_last: bool = False
    """Whether the kernels of 2-d convolutions are laid out with channels last."""
    attention: Backend = "auto"
    """The kernel of torch's attention: math, flash, efficient or cudnn; "auto" leaves it to torch."""
    dropout: Literal["torch", "packed"] = "torch"
    """How a CPU draws what torch.nn.Dropout drops: as torch does, or four draws at a time."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """What to do when the loss or a gradient is not finite: end the run, or leave the update out."""
    max_skipped: int = Field(default=20, ge=0)
    """How many updates in a row may be left out before the run ends."""
    evaluate: Evaluate = Evaluate()
    """When and on how much to validate."""
    save: Save = Save()
    """When to write checkpoints and which to keep."""
    stop: Stop = Stop()
    """When to end before the last step."""
    track: Track = Track()
    """What to record."""
    weights: Path | Callable[[], Path] | None = None
    """A safetensors file, a checkpoint or a run to start from, or a function that returns where one is."""
    weights_allow: tuple[str, ...] = ()
    """Patterns of tensors that may be missing from `weights`, extra in it or of another shape, such as 'head.*'."""
    weights_leave: tuple[str, ...] = ()
    """Patterns of tensors that are not taken from `weights`, even where they fit: a new head."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1", "mps"; "auto" takes an accelerator where there is one."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads; torch's own choice if not given."""
    seed: int = Field(default=0, ge=0)
    """What all randomness follows from."""

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if (self.steps is None) == (self.epochs is None):
            given = "neither" if self.steps is None else f"steps={self.steps} and epochs={self.epochs}"
            raise SettingError(f"a run needs steps= or epochs=, one of them; given: {given}")
        if not callable(self.model) and not isinstance(self.model, ModelSettings):
            raise SettingError(
                f"model={self.model!r} cannot make a model; give a class or function without arguments, or settings "
                "with build(facts)"
            )
        if not isinstance(self.optim, OptimizerSettings):
            raise SettingError(
                f"optim={self.optim!r} cannot build an optimizer; give a name ({', '.join(OPTIMIZERS)}) or settings "
                "with build(model)"
            )
        if not callable(self.schedule) and not isinstance(self.schedule, ScheduleSettings):
            raise SettingError(
                f"schedule={self.schedule!r} is no schedule; give a name ({', '.join(SCHEDULES)}), settings, or a "
                "function of the step"
            )
        if self.step == "whole" and self.compile:
            raise SettingError(
                f"step=whole is not possible with compile={str(self.compile).lower()}, which compiles a part of it by "
                "itself; leave that out"
            )
        prefixes = [method.prefix for method in self.methods if hasattr(method, "prefix")]
        twice = next((prefix for prefix in prefixes if prefixes.count(prefix) > 1), None)
        if twice is not None:
            raise SettingError(f"methods: {twice!r} is there twice, so their values would have the same names")
        self.check_measured("evaluate.monitor", self.evaluate.monitor)
        return self

    def check_measured(self, setting: str, value: str) -> None:
        """Refuse the name of a value that evaluations do not have."""
        if value not in self._goals():
            raise SettingError(f"{setting}={value!r} is not measured; known: {', '.join(self._goals())}")

    @property
    def goal(self) -> Literal["min", "max"]:
        """Whether the monitored value is to be small or large."""
        return self._goals()[self.evaluate.monitor]

    def _goals(self) -> dict[str, Literal["min", "max"]]:
        """Return what evaluations measure, with the model's own weights and with averaged ones."""
        own: dict[str, Literal["min", "max"]] = {"loss": "min"}
        own |= {m.name: m.goal for m in self.metrics if m.of != "model"}
        prefixes = [p for method in self.methods if (p := getattr(method, "prefix", ""))]
        return own | {f"{prefix}_{name}": goal for prefix in prefixes for name, goal in own.items()}
