"""Low rank: factorization of matrices, layers of two factors, and what makes and changes them."""

from lehr.lowrank.balance import balanced_pair
from lehr.lowrank.decomposition import Decomposition, Pair
from lehr.lowrank.factorize import factorize
from lehr.lowrank.spectrum import break_even, energy_rank, spectral_entropy, stable_rank

__all__ = [
    "Decomposition",
    "Pair",
    "balanced_pair",
    "break_even",
    "energy_rank",
    "factorize",
    "spectral_entropy",
    "stable_rank",
]
