"""Optimizer state by the name of the parameter that it belongs to, never by position."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lehr.base.errors import CheckpointError

__all__ = ["NamedState"]


GROUPS = ".groups"
"""Where the state that an optimizer keeps in its groups is put; no parameter's name begins with a dot."""

_OF_ITS_SHAPE = frozenset(
    {
        *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf"),
        *("momentum_buffer", "square_avg", "grad_avg", "acc_delta", "sum", "ax", "prev"),
    }
)
"""The names under which torch's own optimizers keep what has the shape of the parameter."""


class NamedState:
    """The state of one or more optimizers over a model, by parameter, and what they count in their groups.

    Rates and momenta are settings and no state, and so is whatever else in a group is as it was when the optimizer was
    made.

    >>> model = nn.Linear(2, 1)
    >>> state = NamedState(model, [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)])
    >>> model(torch.ones(1, 2)).sum().backward(); state.optimizers[0].step()
    >>> sorted(state.state_dict())
    ['bias', 'weight']
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.model, self.optimizers = model, optimizers
        self._made: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._take_as_made()

    def _take_as_made(self) -> None:
        """Note what is in groups that are new here, and as they were made."""
        known = {id(group) for group, _ in self._made}
        self._made += [(group, copy.deepcopy(_plain(group))) for group in self._groups() if id(group) not in known]

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups if group["params"]]

    def _parameters(self) -> dict[str, tuple[torch.optim.Optimizer, dict[str, Any], Tensor]]:
        name_of = {parameter: name for name, parameter in self.model.named_parameters()}
        return {
            name_of[parameter]: (optimizer, group, parameter)
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Return {parameter name: its state}; that of a parameter that was never updated is empty."""
        parameters = self._parameters()
        state = {name: dict(optimizer.state.get(p, {})) for name, (optimizer, _, p) in parameters.items()}
        name_of = {parameter: name for name, (*_, parameter) in parameters.items()}
        groups = {name_of[group["params"][0]]: changed for group in self._groups() if (changed := self._changed(group))}
        return state | {GROUPS: groups} if groups else state

    def _changed(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return what is not as it was when the group was made; of one that has come later, what changed in others."""
        now = _plain(group)
        made = next((made for known, made in self._made if known is group), None)
        if made is not None:
            return {k: v for k, v in now.items() if k not in made or not _same(v, made[k])}
        state = {k for known, made in self._made for k, v in _plain(known).items() if not _same(v, made.get(k))}
        return {k: v for k, v in now.items() if k in state}

    def load_state_dict(self, saved: Mapping[str, Mapping[str, Any]], /) -> None:
        """Put each state to the parameter of its name; a missing, an extra or a misshapen one is an error."""
        self._take_as_made()  # a checkpoint's layers have been put in by now, with groups from the settings
        parameters = self._parameters()
        saved = dict(saved)
        groups = saved.pop(GROUPS, {})
        extra = sorted((set(saved) | set(groups)) - set(parameters))
        missing = sorted(set(parameters) - set(saved))
        if extra or missing:
            raise CheckpointError(
                f"the optimizer state does not fit this model: without a parameter: {extra or 'none'}; "
                f"without a state: {missing or 'none'}"
            )
        for name, state in saved.items():
            optimizer, group, parameter = parameters[name]
            for key, value in state.items():
                if not _fits(value, key, optimizer, parameter):
                    raise CheckpointError(
                        f"the optimizer state {key!r} of {name!r} has shape {tuple(value.shape)}, but the parameter "
                        f"has {tuple(parameter.shape)}"
                    )
            if state:
                optimizer.state[parameter] = {key: _placed(value, parameter, group) for key, value in state.items()}
        for name, entries in groups.items():
            _, group, parameter = parameters[name]
            group.update({key: _placed(value, parameter, group) for key, value in entries.items()})


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a parameter group that can be state: numbers and tensors, but for what a schedule sets."""
    set_from_outside = {"params", "lr", "initial_lr", "momentum"}
    return {k: v for k, v in group.items() if k not in set_from_outside and isinstance(v, int | float | Tensor)}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    return bool(one == other)


def _fits(value: Any, key: str, optimizer: torch.optim.Optimizer, parameter: Tensor) -> bool:
    """Whether a value can be the optimizer's; only where that is known is a shape looked at."""
    known = key in _OF_ITS_SHAPE and type(optimizer).__module__.startswith("torch.optim.")
    return not known or not isinstance(value, Tensor) or value.ndim == 0 or value.shape == parameter.shape


def _placed(value: Any, parameter: Tensor, group: Mapping[str, Any]) -> Any:
    """Return a loaded value on its parameter's device; counters (0-d) are there for fused and capturable steps only."""
    if isinstance(value, Mapping):
        return {key: _placed(inner, parameter, group) for key, inner in value.items()}
    if not isinstance(value, Tensor):
        return value
    with_parameter = value.ndim > 0 or group.get("fused") or group.get("capturable")
    plain = type(value) is Tensor and value.is_floating_point() and value.shape == parameter.shape
    if plain and not parameter.is_contiguous():  # fused kernels read both in one order
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return value.to(parameter.device) if with_parameter else value.cpu()
