"""Randomness that is addressed, not streamed: every draw follows from a seed and the place it belongs to.

Nothing here depends on what was drawn before. So switching a feature on never changes the draws of another one, and a
resumed run needs no replay: it goes to the address and draws there.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch

__all__ = ["address", "generator", "isolated_global_generators", "mix", "seed_noise", "seed_sample", "seeded"]

_MASK = (1 << 63) - 1
_ODD = 0x1E3779B97F4A7C15
_ODD_2 = 0x3F58476D1CE4E5B9
_ODD_3 = 0x14D049BB133111EB


def mix(state: int, value: int) -> int:
    """Fold ``value`` into ``state``: 63 well-mixed bits, the same on every machine (after SplitMix64).

    >>> mix(1, 2) == mix(1, 2), mix(1, 2) == mix(2, 1)
    (True, False)
    """
    z = (state * _ODD + value + _ODD_2) & _MASK
    z = ((z ^ (z >> 30)) * _ODD_2) & _MASK
    z = ((z ^ (z >> 27)) * _ODD_3) & _MASK
    return z ^ (z >> 31)


def address(seed: int, *place: int | str) -> int:
    """Return the seed that belongs to ``place``, a path such as ``("order", epoch)``.

    >>> address(0, "order", 3) == address(0, "order", 3), address(0, "order", 3) == address(0, "order", 4)
    (True, False)
    """
    state = mix(seed & _MASK, 0x6C656872)
    for part in place:
        if isinstance(part, str):
            part = int.from_bytes(hashlib.sha256(part.encode()).digest()[:7], "big")
        state = mix(state, part)
    return state


def generator(seed: int, *place: int | str) -> torch.Generator:
    """Return a generator of its own for ``place``; the global one is not touched.

    >>> bool((torch.rand(3, generator=generator(0, "demo")) == torch.rand(3, generator=generator(0, "demo"))).all())
    True
    """
    return torch.Generator().manual_seed(address(seed, *place))


def seed_noise(noise: int, step: int, microbatch: int, device_type: str) -> None:
    """Set the global generators for what the model, the loss and methods draw at this step and microbatch.

    ``noise`` is ``address(seed, "noise", rank)``, computed once. Cost: 12 us, most of it NumPy's; `torch.manual_seed`
    alone takes 170 because it visits every backend, so torch's generators are set directly.
    """
    value = mix(mix(noise, step), microbatch)
    _seed_all(value)
    if device_type == "cuda":
        torch.cuda.manual_seed(value)


def seed_sample(order: int, epoch: int, index: int) -> None:
    """Set `random`, NumPy's and torch's global generators for the draws of one sample of a data set.

    ``order`` is ``address(seed, "sample")``. What a sample's ``__getitem__`` draws then depends neither on the worker
    that reads it nor on the samples read before it.
    """
    _seed_all(mix(mix(order, epoch), index))


def _seed_all(value: int) -> None:
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    torch.default_generator.manual_seed(value)


@contextlib.contextmanager
def isolated_global_generators() -> Iterator[None]:
    """Put the global generators of `random`, NumPy and torch back to what they were before the block."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_devices = torch.cuda.get_rng_state_all() if _cuda_is_in_use() else []
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if on_devices:
            torch.cuda.set_rng_state_all(on_devices)


def _cuda_is_in_use() -> bool:
    return torch.cuda.is_available() and bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def seeded(seed: int, *place: int | str) -> Iterator[None]:
    """Run a block with all global generators set to the address ``place``, and put them back after it.

    >>> with seeded(0, "init"):
    ...     first = torch.rand(2)
    >>> with seeded(0, "init"):
    ...     bool((torch.rand(2) == first).all())
    True
    """
    with isolated_global_generators():
        value = address(seed, *place)
        random.seed(value)
        np.random.seed(value & 0xFFFFFFFF)
        torch.manual_seed(value)
        yield
