"""Ways to make training steps faster, one file each. What one of them gains is measured, never believed."""

from __future__ import annotations

from lehr.levers.attention import attention
from lehr.levers.blocks import repeated_blocks
from lehr.levers.channels_last import channels_last
from lehr.levers.fp8 import fp8
from lehr.levers.lever import Lever, NotHere, Setup
from lehr.levers.low_precision import LowPrecision
from lehr.levers.packing import Packed, pack, pack_rows
from lehr.levers.recompute import recompute
from lehr.levers.table import LEVERS
from lehr.levers.tf32 import tf32
from lehr.levers.threads import threads

__all__ = [
    "LEVERS",
    "Lever",
    "LowPrecision",
    "NotHere",
    "Packed",
    "Setup",
    "attention",
    "channels_last",
    "fp8",
    "pack",
    "pack_rows",
    "recompute",
    "repeated_blocks",
    "tf32",
    "threads",
]
