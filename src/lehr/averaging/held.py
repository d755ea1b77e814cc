"""A second set of weights beside a model's own, which can take their place for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from lehr.base.errors import CheckpointError
from lehr.base.tensors import in_full

__all__ = ["HeldWeights"]


class HeldWeights:
    """A copy of the parameters of ``model``, by name, frozen ones too: they may be thawed later. No buffers.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> held = HeldWeights(model)
    >>> _ = nn.init.constant_(model.weight, 5.0); _ = held.values[0].fill_(2.0)
    >>> with held.put_in():
    ...     inside = model.weight.item()
    >>> inside, model.weight.item()
    (2.0, 5.0)
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._parameters = _named(model)
        self.values = [in_full(p).clone() for p in self.live]

    def take_hold(self) -> None:
        """Take hold of the parameters as the model now has them; new ones begin with their own values."""
        held = dict(zip(self._parameters, self.values, strict=True))
        self._parameters = _named(self._model)
        self.values = [
            held[name] if name in held and held[name].shape == p.shape else in_full(p.detach()).clone()
            for name, p in self._parameters.items()
        ]

    @property
    def live(self) -> list[Tensor]:
        """The model's own parameters, in the order of ``values``."""
        return [p.detach() for p in self._parameters.values()]

    def towards(self, weight: float) -> None:
        """Move these weights by the share ``weight`` of the way to the model's own."""
        torch._foreach_lerp_(self.values, [in_full(p) for p in self.live], weight)

    @contextlib.contextmanager
    def put_in(self) -> Iterator[None]:
        """Let the model have these weights within a block, and its own after it, bit for bit."""
        own = [p.clone() for p in self.live]
        torch._foreach_copy_(self.live, self.values)
        try:
            yield
        finally:
            torch._foreach_copy_(self.live, own)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights by the names of the parameters."""
        return dict(zip(self._parameters, self.values, strict=True))

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> None:
        """Set them; every name and shape must fit."""
        expected = {name: tuple(p.shape) for name, p in self._parameters.items()}
        given = {name: tuple(value.shape) for name, value in state.items()}
        if given != expected:
            differ = sorted(n for n in {*given, *expected} if given.get(n) != expected.get(n))
            raise CheckpointError(f"the averaged weights do not fit this model; they differ in {differ[:5]}")
        for value, name in zip(self.values, self._parameters, strict=True):
            value.copy_(state[name])


def _named(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.is_floating_point() or p.is_complex()}
