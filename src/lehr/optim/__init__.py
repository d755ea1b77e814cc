"""Optimizers: settings that build torch optimizers over groups of parameters, clipping, and state by name."""

from lehr.optim.adamw import AdamW
from lehr.optim.clip import clip_factor, global_norm
from lehr.optim.depth import depths, layer_scales
from lehr.optim.groups import decay_groups, split_by_decay
from lehr.optim.muon import Muon
from lehr.optim.table import OPTIMIZERS

__all__ = [
    "OPTIMIZERS",
    "AdamW",
    "Muon",
    "clip_factor",
    "decay_groups",
    "depths",
    "global_norm",
    "layer_scales",
    "split_by_decay",
]
