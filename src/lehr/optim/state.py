"""Optimizer state by the name of the parameter that it belongs to, never by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lehr.base.errors import CheckpointError

__all__ = ["NamedState"]


class NamedState:
    """The per-parameter state of one or more optimizers over a model. Rates and decays are settings, not state.

    >>> model = nn.Linear(2, 1)
    >>> state = NamedState(model, [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)])
    >>> model(torch.ones(1, 2)).sum().backward(); state.optimizers[0].step()
    >>> sorted(state.state_dict())
    ['bias', 'weight']
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.model, self.optimizers = model, optimizers

    def _parameters(self) -> dict[str, tuple[torch.optim.Optimizer, Tensor]]:
        name_of = {parameter: name for name, parameter in self.model.named_parameters()}
        return {
            name_of[parameter]: (optimizer, parameter)
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Return {parameter name: its state}; that of a parameter that was never updated is empty."""
        return {name: dict(optimizer.state.get(p, {})) for name, (optimizer, p) in self._parameters().items()}

    def load_state_dict(self, saved: Mapping[str, Mapping[str, Any]], /) -> None:
        """Put each state to the parameter of its name; a missing, an extra or a misshapen one is an error."""
        parameters = self._parameters()
        extra = sorted(set(saved) - set(parameters))
        missing = sorted(set(parameters) - set(saved))
        if extra or missing:
            raise CheckpointError(
                f"the optimizer state does not fit this model: without a parameter: {extra or 'none'}; "
                f"without a state: {missing or 'none'}"
            )
        for name, state in saved.items():
            optimizer, parameter = parameters[name]
            for key, value in state.items():
                if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                    raise CheckpointError(
                        f"the optimizer state {key!r} of {name!r} has shape {tuple(value.shape)}, but the parameter "
                        f"has {tuple(parameter.shape)}"
                    )
            if state:
                optimizer.state[parameter] = {key: _placed(value, parameter) for key, value in state.items()}


def _placed(value: Any, parameter: Tensor) -> Any:
    """Return a loaded value on its parameter's device; counters (0-d) stay where the optimizer keeps them."""
    if not isinstance(value, Tensor):
        return value
    fused_counter = value.ndim == 0 and parameter.device.type != "cpu"
    return value.to(parameter.device) if value.ndim or fused_counter else value
