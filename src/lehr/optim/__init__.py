"""Optimizers: settings that build torch optimizers over groups of parameters, clipping, and state by name."""

from lehr.optim.adafactor import Adafactor
from lehr.optim.adagrad import Adagrad
from lehr.optim.adam import Adam
from lehr.optim.adamw import AdamW
from lehr.optim.adamw_8bit import AdamW8bit
from lehr.optim.clip import clip_factor, global_norm
from lehr.optim.depth import depths, layer_scales
from lehr.optim.groups import decay_groups, ruled_groups, split_by_decay
from lehr.optim.lion import Lion
from lehr.optim.muon import Muon
from lehr.optim.rmsprop import RMSprop
from lehr.optim.rules import Rule, discriminative
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
    "RMSprop",
    "Rule",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "clip_factor",
    "decay_groups",
    "depths",
    "discriminative",
    "global_norm",
    "layer_scales",
    "ruled_groups",
    "split_by_decay",
]
