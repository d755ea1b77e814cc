"""Low rank: factorization of matrices, layers of two factors, and what makes and changes them."""

from lehr.lowrank.attention import SplitAttention
from lehr.lowrank.balance import balanced_pair
from lehr.lowrank.candidates import Candidate, candidates
from lehr.lowrank.convolution import LowRankConv2d
from lehr.lowrank.decay import frobenius_decay, frobenius_decay_
from lehr.lowrank.decomposition import Decomposition, Pair
from lehr.lowrank.factorize import factorize
from lehr.lowrank.four_tensor import FourTensorLinear
from lehr.lowrank.linear import LowRankLinear
from lehr.lowrank.lora import LoRALinear
from lehr.lowrank.spectrum import break_even, energy_rank, spectral_entropy, stable_rank
from lehr.lowrank.surgery import described, exchange, low_rank, make_dense, rebuilt, split_attention

__all__ = [
    "Candidate",
    "Decomposition",
    "FourTensorLinear",
    "LoRALinear",
    "LowRankConv2d",
    "LowRankLinear",
    "Pair",
    "SplitAttention",
    "balanced_pair",
    "break_even",
    "candidates",
    "described",
    "energy_rank",
    "exchange",
    "factorize",
    "frobenius_decay",
    "frobenius_decay_",
    "low_rank",
    "make_dense",
    "rebuilt",
    "spectral_entropy",
    "split_attention",
    "stable_rank",
]
