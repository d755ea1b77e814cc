"""The registry of everything with state: one capture, one restore, the same names on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lehr.base.errors import CheckpointError
from lehr.base.protocols import Stateful

__all__ = ["ModelState", "capture", "restore"]


class ModelState:
    """A model's parameters and persistent buffers. Loading copies into them, so that ties and alignment stay."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state_dict(self) -> dict[str, Any]:
        """Return the model's own state, under its own names."""
        return dict(self._model.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> None:
        """Set it; every name must fit."""
        try:
            self._model.load_state_dict(dict(state), strict=True)
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint does not fit the model: {error}") from None


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
