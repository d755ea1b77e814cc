"""The contracts between the floors: who holds state, who listens, who records. Two kinds of listener, two types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from lehr.base.durations import RunLength
from lehr.base.errors import SettingError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = [
    "Averaged",
    "Batch",
    "Change",
    "Exchanges",
    "FixedLayers",
    "Loader",
    "Method",
    "MethodSettings",
    "Observer",
    "Place",
    "Record",
    "RunContext",
    "Stateful",
    "Tracker",
]

Batch: TypeAlias = Any
"""Whatever the data yields: a tensor, or tuples, lists and dicts of tensors whose first dimension is the sample."""

Record: TypeAlias = dict[str, Any]
"""One line of metrics.jsonl: ``step``, ``split``, ``loss`` and what else applies; plain numbers and texts."""

Change = Literal["batch", "loss", "gradients", "rate", "model", "layers"]


@runtime_checkable
class Stateful(Protocol):
    """Whatever must survive an interruption: tensors and plain values out, the same values in."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state: nested dicts, lists and tuples of tensors, arrays and plain values."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Take the state that `state_dict` returned."""


@dataclass(frozen=True)
class Place:
    """Where the run is, as listeners see it: a read-only view of the clock."""

    step: int
    epoch: int
    total_steps: int


class Observer:
    """A listener that only looks. Override the events it needs; raise `StopRun` to ask for a stop.

    An observer that also has ``state_dict`` and ``load_state_dict`` is saved and restored with the run.
    """

    def run_start(self, place: Place) -> None:
        """Before the first step of this process."""

    def step_end(self, place: Place) -> None:
        """After an applied update; costs every step, and must not read tensors."""

    def logged(self, place: Place, record: Record) -> None:
        """After a record for metrics.jsonl was made."""

    def eval_start(self, place: Place) -> None:
        """Before an evaluation."""

    def eval_end(self, place: Place, values: Mapping[str, float]) -> None:
        """After an evaluation, with its metrics by name."""

    def save_done(self, place: Place, path: str) -> None:
        """After a checkpoint was written and verified."""

    def run_end(self, place: Place, reason: str) -> None:
        """After the last step, with why the run stopped."""

    def run_failed(self, place: Place, error: BaseException) -> None:
        """When the run ends with an exception."""


class Method:
    """A listener that changes the training, and declares what: ``changes`` names all that it touches.

    A method with state that must survive an interruption has ``state_dict`` and ``load_state_dict``.
    """

    changes: ClassVar[frozenset[Change]] = frozenset()

    def run_start(self, model: nn.Module, place: Place) -> None:
        """Before the first step of this process, after a checkpoint was loaded; change the model (declare "model")."""

    def batch_ready(self, batch: Batch, place: Place) -> Batch:
        """Return the batch to train on (declare "batch")."""
        return batch

    def loss_ready(self, total: Tensor, count: Tensor | float, model: nn.Module, place: Place) -> Tensor:
        """Return the microbatch's summed loss (declare "loss"); a term per sample is added times ``count``."""
        return total

    def grads_ready(self, model: nn.Module, place: Place) -> None:
        """Change the gradients in place, after normalization, clipping and the finite check (declare "gradients")."""

    def rate_ready(self, factor: float, place: Place) -> float:
        """Return the factor on the rates of this update, which the schedule gave as ``factor`` (declare "rate")."""
        return factor

    def step_end(self, model: nn.Module, place: Place) -> None:
        """Change the model after an applied update (declare "model"); its layers through `RunContext.structure`."""


class Exchanges(Protocol):
    """What exchanges layers of a model in training: `lehr.training.structure.Structure`."""

    def change(self, by: str) -> None:
        """Announce the method that will exchange layers."""

    def hold(self, by: str) -> None:
        """Announce what holds parameters for the whole run."""

    def freeze(self, names: Sequence[str]) -> None:
        """Train these parameters no longer, and leave them out of checkpoints."""

    def follow(self, call: Callable[[], None]) -> None:
        """Have ``call()`` made after each exchange."""

    def put(
        self,
        layers: Mapping[str, nn.Module],
        states: Mapping[str, dict[str, Any]] | None = None,
        *,
        frobenius: bool = False,
        factor_rate: float = 1.0,
    ) -> None:
        """Put each module in the place of the one of that name."""


class FixedLayers:
    """Stands for `Exchanges` where nothing exchanges layers.

    >>> FixedLayers().hold("anything")
    """

    def change(self, by: str) -> None:
        """Refuse: there is no run."""
        raise SettingError(f"{by} exchanges layers of the model, which needs a run: give it in Recipe(methods=[...])")

    def hold(self, by: str) -> None:
        """Nothing will be exchanged."""

    def freeze(self, names: Sequence[str]) -> None:
        """Refuse."""
        raise SettingError(f"nothing is trained here, so {len(names)} parameters cannot be frozen")

    def follow(self, call: Callable[[], None]) -> None:
        """Nothing will be exchanged."""

    def put(
        self,
        layers: Mapping[str, nn.Module],
        states: Mapping[str, dict[str, Any]] | None = None,
        *,
        frobenius: bool = False,
        factor_rate: float = 1.0,
    ) -> None:
        """Refuse."""
        raise SettingError(f"no layer is exchanged here, so neither is {', '.join(layers)}")


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What the settings of a method are turned into a method with: the model and the run that it is for."""

    model: nn.Module
    run: RunLength
    optimizers: Sequence[torch.optim.Optimizer] = ()
    structure: Exchanges = field(default_factory=FixedLayers)
    """Through which a method exchanges layers of the model, and hears of it."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is known about the data, such as ``num_classes``."""
    seed: int = 0
    rank: int = 0
    world: int = 1
    objective: Any = None
    batches: Callable[[int | None], Iterable[Batch]] = lambda limit: ()
    """One pass over the training data, or ``limit`` batches spread over it, apart from the loader."""
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    """The precision that the run's forward passes are made in."""


@runtime_checkable
class MethodSettings(Protocol):
    """Settings that become a method once there is a model; a recipe holds these, so that no run leaves state in it."""

    def build(self, context: RunContext, /) -> Method | Observer:
        """Return the method for this run."""


@runtime_checkable
class Averaged(Protocol):
    """A method or an optimizer that keeps other weights of the model, which evaluations are to use."""

    prefix: str
    """Put before the names of what is measured with these weights; "" where they take the place of the model's own."""

    def put_in(self) -> AbstractContextManager[None]:
        """Let the model have these weights within a block."""


class Tracker(Protocol):
    """Where records go. A tracker that fails is reported and dropped; it never changes the training."""

    def log(self, record: Record) -> None:
        """Take one record."""

    def close(self) -> None:
        """Write out what is pending and release files and terminals."""


class Loader(Protocol):
    """An endless source of batches that knows where it is and can be put back there."""

    steps_per_epoch: int | None
    """Batches in an epoch, where that is known."""
    batch_size: int
    """Samples in a full batch, over all processes."""

    @property
    def seekable(self) -> bool:
        """Whether `load_state_dict` can go to any earlier position without reading what lies between."""

    @property
    def ids(self) -> list[int]:
        """The samples of the batch that was returned last, by their index in the data."""

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to, from 0."""

    def __next__(self) -> Batch:
        """Return the next batch; epochs follow one another without end."""

    def __iter__(self) -> Iterator[Batch]:
        """Return itself."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position: what was handed out, not what was read ahead."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go to a position."""

    def close(self) -> None:
        """Stop worker processes."""
