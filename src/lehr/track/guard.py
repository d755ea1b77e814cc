"""A tracker that fails is reported once and dropped; the training does not notice."""

from __future__ import annotations

import warnings

from lehr.base.errors import LehrWarning
from lehr.base.protocols import Record, Tracker

__all__ = ["Guarded"]


class Guarded:
    """Wraps a tracker that the run does not depend on.

    >>> class Broken:
    ...     def log(self, record): raise OSError("no space left")
    ...     def close(self): pass
    >>> guarded = Guarded(Broken())
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always"); guarded.log({}); guarded.log({})
    >>> len(caught)
    1
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker: Tracker | None = tracker

    def log(self, record: Record) -> None:
        """Hand the record on, unless the tracker has failed before."""
        if self._tracker is not None:
            self._attempt(lambda tracker: tracker.log(record))

    def close(self) -> None:
        """Close the tracker."""
        if self._tracker is not None:
            self._attempt(lambda tracker: tracker.close())

    def _attempt(self, call: object) -> None:
        tracker, name = self._tracker, type(self._tracker).__name__
        try:
            call(tracker)  # type: ignore[operator]
        except Exception as error:
            self._tracker = None
            warnings.warn(
                f"the tracker {name} failed and is left out from here on: {type(error).__name__}: {error}",
                LehrWarning,
                stacklevel=4,
            )
