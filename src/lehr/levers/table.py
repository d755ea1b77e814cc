"""The levers that `lehr speed` tries."""

from __future__ import annotations

from lehr.base.tables import Row, Table
from lehr.levers.attention import ATTENTION
from lehr.levers.bucketing import BUCKETING
from lehr.levers.channels_last import CHANNELS_LAST
from lehr.levers.compiling import BLOCKS, COMPILE, GRAPHS
from lehr.levers.copy_ahead import COPY_AHEAD
from lehr.levers.fp8 import FP8
from lehr.levers.lever import Lever
from lehr.levers.loading import WORKERS
from lehr.levers.low_precision import BF16_WEIGHTS
from lehr.levers.microbatches import MICROBATCHES
from lehr.levers.optimizer import EIGHT_BIT, FUSED
from lehr.levers.packed_dropout import PACKED_DROPOUT
from lehr.levers.packing import PACKING
from lehr.levers.precision import BF16, FP16
from lehr.levers.recompute import RECOMPUTE
from lehr.levers.resident import RESIDENT_DATA
from lehr.levers.synchronization import DEFERRED_READING
from lehr.levers.tf32 import TF32
from lehr.levers.threads import THREADS
from lehr.levers.whole_step import WHOLE_STEP

__all__ = ["LEVERS"]

_ALL = (
    MICROBATCHES,
    WHOLE_STEP,
    COMPILE,
    BLOCKS,
    GRAPHS,
    THREADS,
    BUCKETING,
    PACKING,
    PACKED_DROPOUT,
    WORKERS,
    RESIDENT_DATA,
    COPY_AHEAD,
    BF16,
    BF16_WEIGHTS,
    FP16,
    FP8,
    TF32,
    FUSED,
    EIGHT_BIT,
    CHANNELS_LAST,
    ATTENTION,
    DEFERRED_READING,
    RECOMPUTE,
)


def _row(lever: Lever) -> Row:
    return Row(name=lever.name, make=lambda: lever, summary=lever.summary)


LEVERS = Table("lever", [_row(lever) for lever in _ALL])
"""`Row.make` returns the `Lever`. Where two promise the same, the earlier is tried first."""
