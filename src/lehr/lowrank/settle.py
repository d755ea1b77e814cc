"""When to switch to low rank: once the stable ranks of the weights have settled (Cuttlefish, arXiv 2305.02538)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lehr.base.errors import SettingError

__all__ = ["Settling", "settled"]


def settled(history: Mapping[str, Sequence[float]], *, window: int, tolerance: float) -> bool:
    """Return whether each layer's last ``window`` values lie within ``tolerance`` times their mean of each other.

    The range counts and not the difference of the ends, so that what swings has not settled. Less history than
    ``window``, a value that is not finite, and no layers at all have not settled either. Raises SettingError for a
    window under 2 or a tolerance that is not positive.

    >>> settled({"a": [9.0, 5.0, 5.1], "b": [8.0, 3.0, 3.0]}, window=2, tolerance=0.05)
    True
    """
    if window < 2 or not tolerance > 0:
        raise SettingError(f"window={window}, tolerance={tolerance:g}; use a window of 2 or more, a tolerance above 0")
    return bool(history) and all(_flat(values[-window:], window, tolerance) for values in history.values())


def _flat(values: Sequence[float], window: int, tolerance: float) -> bool:
    if len(values) < window or not all(map(math.isfinite, values)):
        return False
    return max(values) - min(values) <= tolerance * sum(values) / window


class Settling:
    """Collects the stable ranks of layers, measured every so often, and says when they have settled.

    >>> settling = Settling(window=2, tolerance=0.1)
    >>> [settling.observe({"fc": rank}) for rank in (9.0, 6.0, 5.9)]
    [False, False, True]
    """

    def __init__(self, *, window: int = 3, tolerance: float = 0.02) -> None:
        settled({}, window=window, tolerance=tolerance)
        self.window = window
        self.tolerance = tolerance
        self._history: dict[str, list[float]] = {}

    def observe(self, ranks: Mapping[str, float]) -> bool:
        """Add one measurement of all layers, forget others; returns whether they have settled."""
        self._history = {
            name: [*self._history.get(name, []), float(rank)][-self.window :] for name, rank in ranks.items()
        }
        return settled(self._history, window=self.window, tolerance=self.tolerance)

    def state_dict(self) -> dict[str, list[float]]:
        """Return the last measurements by layer, as plain numbers."""
        return {name: list(values) for name, values in self._history.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Take over what `state_dict` returned."""
        self._history = {name: [float(value) for value in values] for name, values in state.items()}
