"""What a speed lever is: what it sets, where it applies, which part of a step it may shorten, what it may change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from lehr.base.errors import LehrError

__all__ = ["PHASES", "Changes", "Lever", "NotHere", "Phase", "Settings", "Setup"]

Phase = Literal["data", "forward", "backward", "optimizer", "synchronization", "python"]
PHASES: tuple[Phase, ...] = ("data", "forward", "backward", "optimizer", "synchronization", "python")
"""The parts of a step; "python" is what passes between operations, in whichever of the others."""

Changes = Literal["nothing", "rounding", "noise", "order"]
"""What a lever may change in what is computed: nothing at all, the last digits, what dropout draws, or which samples
meet in a batch. Rates, batches and the number of steps are never a lever's."""

Settings = tuple[str, ...]
"""Changes of a recipe, as ``--set`` takes them."""


class NotHere(LehrError):
    """A lever that cannot do anything for this recipe on this machine; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What levers need to know of a recipe and of the machine that it runs on."""

    device: str = "cpu"
    """Type of the device: cpu, cuda, mps."""
    capability: tuple[int, int] = (0, 0)
    """Compute capability of a CUDA device."""
    cores: int = 1
    threads: int = 1
    world: int = 1
    """Number of processes."""
    compiler: bool = True
    """Whether torch's compiler can build code for the device: on a CPU it needs a C++ compiler."""
    precision: str = "fp32"
    step: str = "eager"
    compile: bool | str = False
    steps: int = 0
    """Updates of the whole run; 0 where that is not known."""
    accumulate: int = 1
    batch_size: int = 32
    """Samples of an update."""
    optimizer: str = "adamw"
    """Name of its settings, in lower case."""
    adamw: Settings | None = ()
    """What makes another AdamW of the recipe's: its rate, betas and decay; None where it has rules too."""
    tracks: str = "auto"
    """When the finite check is read."""
    data: Literal["memory", "samples", "stream"] = "memory"
    """In memory and indexed by batches, read sample by sample, or a stream."""
    workers: int = 0
    resident: bool = False
    copy_ahead: bool = False
    bucket: bool = False
    padding: float = 0.0
    """Share of a batch that is padding, on average."""
    convolutions: int = 0
    """Convolutions over pictures in the model."""
    channels_last: bool = False
    attention: str = "auto"
    attends: bool = False
    """Whether the model calls torch's attention."""
    blocks: int = 0
    """Repeated blocks of the model."""
    dropout: str = "torch"
    dropouts: int = 0
    """Modules of the model that are torch's dropout."""


@dataclass(frozen=True, kw_only=True)
class Lever:
    """A way to make steps faster. Nothing is set by it: `options` says what could be tried."""

    name: str
    summary: str
    shortens: tuple[Phase, ...]
    """Where the time is that it may save."""
    options: Callable[[Setup], Sequence[Settings]]
    """The settings to try, the likelier first; raises `NotHere` with the reason where there are none."""
    changes: Changes = "nothing"
    compiles: bool = False
    """Whether trying it takes the time of a compilation."""
    untested: str = ""
    """Where it was never run by those who wrote it."""
