"""Parts of models: dropouts, norms, the residual block; initialization, and the check that signals pass."""

from lehr.layers.drop_connect import DropConnectLinear, drop_connect
from lehr.layers.drop_path import DropPath, depth_rates, drop_path
from lehr.layers.dropout import Dropout, SpatialDropout, inverted_dropout
from lehr.layers.norms import NORMS, norm
from lehr.layers.residual import ResidualBlock
from lehr.layers.zero_init import zero_init_residual

__all__ = [
    "NORMS",
    "DropConnectLinear",
    "DropPath",
    "Dropout",
    "ResidualBlock",
    "SpatialDropout",
    "depth_rates",
    "drop_connect",
    "drop_path",
    "inverted_dropout",
    "norm",
    "zero_init_residual",
]
