"""The registry of everything with state: one capture, one restore, the same names on both sides."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lehr.base.errors import CheckpointError
from lehr.base.protocols import Averaged, Stateful

__all__ = ["ModelState", "TrainedWeights", "capture", "restore"]


class ModelState:
    """A model's parameters and persistent buffers. Loading copies into them, so that ties and alignment stay.

    What takes the place of the trained weights in evaluations, such as the average of a schedule-free optimizer, takes
    it here too: the model of a checkpoint is the one that was measured.
    """

    def __init__(
        self,
        model: nn.Module,
        in_place: Sequence[Averaged] = (),
        left_out: Callable[[], Sequence[str]] = lambda: (),
    ) -> None:
        self._model, self._in_place, self._left_out = model, in_place, left_out

    def state_dict(self) -> dict[str, Any]:
        """Return the model's own state, under its own names, but for what is left out."""
        left_out = set(self._left_out())
        return {name: value for name, value in self._everything().items() if name not in left_out}

    def _everything(self) -> dict[str, Any]:
        if not self._in_place:
            return dict(self._model.state_dict())
        with contextlib.ExitStack() as stack:
            for average in self._in_place:
                stack.enter_context(average.put_in())
            state = self._model.state_dict()
            return {name: v.clone() if isinstance(v, Tensor) else v for name, v in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> None:
        """Set it; every name must fit, and what is left out stays as the model has it."""
        own = self._model.state_dict()
        try:
            self._model.load_state_dict({name: own[name] for name in self._left_out()} | dict(state), strict=True)
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint does not fit the model: {error}") from None


class TrainedWeights:
    """The parameters that training goes on with, where a checkpoint's model has others."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state_dict(self) -> dict[str, Tensor]:
        """Return the parameters by name."""
        return {name: parameter.detach() for name, parameter in self._model.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> None:
        """Set them."""
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                parameter.copy_(state[name])


def capture(parts: Mapping[str, Stateful]) -> dict[str, Any]:
    """Return the state of every part by its name."""
    return {name: part.state_dict() for name, part in parts.items()}


def restore(parts: Mapping[str, Stateful], saved: Mapping[str, Any]) -> None:
    """Give every part its state back; a part without a state, or a state without a part, is an error."""
    missing, extra = sorted(set(parts) - set(saved)), sorted(set(saved) - set(parts))
    if missing or extra:
        raise CheckpointError(
            f"the checkpoint does not fit this recipe: nothing saved for {missing or 'none'}, nothing here takes "
            f"{extra or 'none'}; resume with the recipe that made it"
        )
    for name, part in parts.items():
        part.load_state_dict(saved[name])
