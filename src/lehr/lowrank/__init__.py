"""Low rank: factorization of matrices, layers of two factors, and what makes and changes them."""

from lehr.lowrank.allocate import allocate, ranks_by_energy, ranks_by_ratio
from lehr.lowrank.attention import SplitAttention
from lehr.lowrank.balance import Balance, balanced_pair
from lehr.lowrank.candidates import Candidate, candidates
from lehr.lowrank.compensate import companion
from lehr.lowrank.convolution import LowRankConv2d
from lehr.lowrank.covariance import second_moments, weighted_spectrum
from lehr.lowrank.decay import frobenius_decay, frobenius_decay_
from lehr.lowrank.decomposition import Decomposition, Pair
from lehr.lowrank.dynamic import grown, level, level_by_energy, reorthogonalized, shrunk
from lehr.lowrank.factorize import factorize
from lehr.lowrank.four_tensor import FourTensorLinear
from lehr.lowrank.linear import LowRankLinear, trainable
from lehr.lowrank.lora import LoRALinear
from lehr.lowrank.plan import Plan, Selective, plan
from lehr.lowrank.settle import Settling, settled
from lehr.lowrank.spectrum import break_even, energy_rank, spectral_entropy, stable_rank
from lehr.lowrank.surgery import described, exchange, low_rank, make_dense, rebuilt, split_attention

__all__ = [
    "Balance",
    "Candidate",
    "Decomposition",
    "FourTensorLinear",
    "LoRALinear",
    "LowRankConv2d",
    "LowRankLinear",
    "Pair",
    "Plan",
    "Selective",
    "Settling",
    "SplitAttention",
    "allocate",
    "balanced_pair",
    "break_even",
    "candidates",
    "companion",
    "described",
    "energy_rank",
    "exchange",
    "factorize",
    "frobenius_decay",
    "frobenius_decay_",
    "grown",
    "level",
    "level_by_energy",
    "low_rank",
    "make_dense",
    "plan",
    "ranks_by_energy",
    "ranks_by_ratio",
    "rebuilt",
    "reorthogonalized",
    "second_moments",
    "settled",
    "shrunk",
    "spectral_entropy",
    "split_attention",
    "stable_rank",
    "trainable",
    "weighted_spectrum",
]
