"""Optimizers: settings that build torch optimizers over groups of parameters, clipping, and state by name."""

from lehr.optim.adafactor import Adafactor
from lehr.optim.adagrad import Adagrad
from lehr.optim.adam import Adam
from lehr.optim.adamw import AdamW
from lehr.optim.adamw_8bit import AdamW8bit
from lehr.optim.agc import adaptive_clip_, unit_norms
from lehr.optim.centralize import centralize_
from lehr.optim.clip import clip_factor, global_norm
from lehr.optim.clip_value import clip_by_value_
from lehr.optim.depth import depths, layer_scales
from lehr.optim.footprint import optimizer_bytes
from lehr.optim.frozen import frozen_norms
from lehr.optim.groups import ruled_groups, split_by_decay
from lehr.optim.lion import Lion
from lehr.optim.lowrank import Projected
from lehr.optim.muon import Muon
from lehr.optim.noise import add_noise_, noise_deviation
from lehr.optim.rmsprop import RMSprop
from lehr.optim.rules import Rule, discriminative
from lehr.optim.scaling import ScaledRate, scale_beta, scale_rate
from lehr.optim.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from lehr.optim.sgd import SGD
from lehr.optim.soap import SOAP
from lehr.optim.table import OPTIMIZERS

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "SOAP",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "AdamW8bit",
    "Lion",
    "Muon",
    "Projected",
    "RMSprop",
    "Rule",
    "ScaledRate",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "adaptive_clip_",
    "add_noise_",
    "centralize_",
    "clip_by_value_",
    "clip_factor",
    "depths",
    "discriminative",
    "frozen_norms",
    "global_norm",
    "layer_scales",
    "noise_deviation",
    "optimizer_bytes",
    "ruled_groups",
    "scale_beta",
    "scale_rate",
    "split_by_decay",
    "unit_norms",
]
