"""Objectives return a sum and a count, never a mean: accumulation, ragged batches and masks are then exact."""

from lehr.losses.bce import bce
from lehr.losses.cross_entropy import cross_entropy
from lehr.losses.distillation import Distilled, distillation, softened_divergence
from lehr.losses.elastic_net import elastic_net
from lehr.losses.focal_loss import binary_focal_loss, focal_loss
from lehr.losses.l1 import l1, soft_threshold, soft_threshold_
from lehr.losses.l2 import l2
from lehr.losses.label_smoothing import label_smoothing
from lehr.losses.mae import mae
from lehr.losses.mse import mse
from lehr.losses.objective import Objective, Supervised, as_objective
from lehr.losses.table import LOSSES
from lehr.losses.z_loss import z_loss

__all__ = [
    "LOSSES",
    "Distilled",
    "Objective",
    "Supervised",
    "as_objective",
    "bce",
    "binary_focal_loss",
    "cross_entropy",
    "distillation",
    "elastic_net",
    "focal_loss",
    "l1",
    "l2",
    "label_smoothing",
    "mae",
    "mse",
    "soft_threshold",
    "soft_threshold_",
    "softened_divergence",
    "z_loss",
]
