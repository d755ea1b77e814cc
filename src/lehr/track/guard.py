"""A tracker that fails is reported once and dropped; the training does not notice."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable

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
        self._attempt(lambda tracker: tracker.log(record))

    def close(self) -> None:
        """Close the tracker."""
        self._attempt(lambda tracker: tracker.close())

    def _attempt(self, call: Callable[[Tracker], None]) -> None:
        tracker = self._tracker
        if tracker is None:
            return
        try:
            call(tracker)
        except Exception as error:
            self._tracker = None
            with contextlib.suppress(Exception):  # it may hold a terminal or a file
                tracker.close()
            warnings.warn(
                f"the tracker {type(tracker).__name__} failed and is left out from here on: "
                f"{type(error).__name__}: {error}",
                LehrWarning,
                stacklevel=4,
            )
