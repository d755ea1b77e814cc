"""Every error that lehr raises on purpose. Each carries the exit code that the command line ends with."""

from __future__ import annotations

__all__ = [
    "BAD_USAGE",
    "FAILED",
    "PREEMPTED",
    "CheckpointError",
    "DataError",
    "LehrError",
    "LehrWarning",
    "NoEffectWarning",
    "NonFiniteError",
    "RecipeFileError",
    "RunError",
    "SettingError",
    "StopRun",
]

BAD_USAGE = 2
"""Exit code: bad usage or settings; nothing was written or lost."""
FAILED = 3
"""Exit code: the run failed, and its evidence is in the run folder."""
PREEMPTED = 75
"""Exit code: asked to stop; saved; `lehr resume` continues it (75 is the system's EX_TEMPFAIL)."""


class LehrError(Exception):
    """Base of the errors that are meant for the user: what was given, what is allowed, what to do."""

    exit_code: int = FAILED
    """What the command line ends with; a run that fails after it began sets it to `FAILED`."""
    run: str | None = None
    """The folder of the run that failed, if it had begun."""


class SettingError(LehrError, ValueError):
    """A setting, a command or a combination of them that cannot work; raised before any work is done."""

    exit_code = BAD_USAGE


class DataError(LehrError, ValueError):
    """Data that is missing, empty, unreadable, too small, or does not fit the model and the loss."""

    exit_code = BAD_USAGE


class RecipeFileError(LehrError):
    """A recipe that raised; shown with the user's own traceback."""

    exit_code = BAD_USAGE


class CheckpointError(LehrError):
    """A checkpoint that cannot be written, read or trusted. One that cannot be written fails the run."""

    exit_code = BAD_USAGE


class RunError(LehrError):
    """A run that cannot go on; what is known about it is in the run folder."""


class NonFiniteError(RunError):
    """A loss or a gradient that is not finite; raised before the weights are touched."""


class StopRun(Exception):
    """Raised by a listener to ask for a stop at the end of this step; ``reason`` is what the run reports.

    >>> StopRun("early-stop").reason
    'early-stop'
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LehrWarning(UserWarning):
    """Something the user asked for goes on, but not quite as they may think."""


class NoEffectWarning(LehrWarning):
    """A setting or a method that changed nothing."""
