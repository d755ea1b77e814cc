"""Methods: the techniques of the lower floors, bound to the events of a run. One file each, named in `METHODS`."""

from lehr.training.methods.adaptive_clip import AdaptiveGradientClipping
from lehr.training.methods.centralize import GradientCentralization
from lehr.training.methods.clip_value import ClipByValue
from lehr.training.methods.cutmix import CutMix
from lehr.training.methods.dynamic_lowrank import DynamicLowRank
from lehr.training.methods.ema import EMA
from lehr.training.methods.gradient_noise import GradientNoise
from lehr.training.methods.lora import LoRA
from lehr.training.methods.lowrank_layers import LowRankLayers
from lehr.training.methods.mixup import Mixup
from lehr.training.methods.penalty import ElasticNet, L1Penalty, L2Penalty
from lehr.training.methods.progressive_lowrank import ProgressiveLowRank
from lehr.training.methods.proximal_l1 import ProximalL1
from lehr.training.methods.stabilize import StabilizeGradients
from lehr.training.methods.swa import SWA
from lehr.training.methods.table import METHODS
from lehr.training.methods.unfreeze import GradualUnfreezing

__all__ = [
    "EMA",
    "METHODS",
    "SWA",
    "AdaptiveGradientClipping",
    "ClipByValue",
    "CutMix",
    "DynamicLowRank",
    "ElasticNet",
    "GradientCentralization",
    "GradientNoise",
    "GradualUnfreezing",
    "L1Penalty",
    "L2Penalty",
    "LoRA",
    "LowRankLayers",
    "Mixup",
    "ProgressiveLowRank",
    "ProximalL1",
    "StabilizeGradients",
]
