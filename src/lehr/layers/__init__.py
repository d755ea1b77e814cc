"""Parts of models: dropouts, norms, the residual block; initialization, and the check that signals pass."""

from lehr.layers.drop_connect import DropConnectLinear, drop_connect
from lehr.layers.drop_path import DropPath, depth_rates, drop_path
from lehr.layers.dropout import Dropout, SpatialDropout, inverted_dropout
from lehr.layers.he import He
from lehr.layers.initialize import ACTIVATIONS, RULES, for_activation, initialize
from lehr.layers.initialized import Initialized
from lehr.layers.lecun import LeCun
from lehr.layers.mup import mup_initialize, mup_rates
from lehr.layers.norms import NORMS, norm
from lehr.layers.orthogonal import Orthogonal
from lehr.layers.packed_dropout import PackedDropout, pack_dropout, packed_dropout
from lehr.layers.residual import ResidualBlock
from lehr.layers.truncated_normal import TruncatedNormal, scale_residual
from lehr.layers.variance import VarianceReport, check_variance
from lehr.layers.xavier import Xavier
from lehr.layers.zero_init import zero_init_residual

__all__ = [
    "ACTIVATIONS",
    "NORMS",
    "RULES",
    "DropConnectLinear",
    "DropPath",
    "Dropout",
    "He",
    "Initialized",
    "LeCun",
    "Orthogonal",
    "PackedDropout",
    "ResidualBlock",
    "SpatialDropout",
    "TruncatedNormal",
    "VarianceReport",
    "Xavier",
    "check_variance",
    "depth_rates",
    "drop_connect",
    "drop_path",
    "for_activation",
    "initialize",
    "inverted_dropout",
    "mup_initialize",
    "mup_rates",
    "norm",
    "pack_dropout",
    "packed_dropout",
    "scale_residual",
    "zero_init_residual",
]
