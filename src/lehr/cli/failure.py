"""How an error is said: frames of the user's own code, one message, one JSON object where that was asked for."""

from __future__ import annotations

import json
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from lehr.base.errors import BAD_USAGE, FAILED, LehrError, NonFiniteError

__all__ = ["own_traceback", "say"]


def say(error: Exception) -> int:
    """Say ``error`` on standard error, as JSON on standard output too if that was asked for; returns the exit code."""
    message, code = str(error), FAILED
    if isinstance(error, LehrError):
        code = error.exit_code
    elif hasattr(error, "format_message"):  # usage errors of the argument parser
        message, code = f"{error.format_message()} (see `lehr --help`)", BAD_USAGE
    else:
        message = f"{type(error).__name__}: {error}"
    if code != BAD_USAGE or isinstance(error, LehrError):
        print(own_traceback(error), file=sys.stderr, end="")
    notes = getattr(error, "__notes__", [])
    print("\n       ".join([f"error: {message}", *notes]), file=sys.stderr)
    if "--json" in sys.argv[1:]:
        content = {"error": message, "exit_code": code, "notes": notes}
        if isinstance(error, LehrError) and error.run is not None:
            content |= {"run": error.run, "stopped": "diverged" if isinstance(error, NonFiniteError) else "failed"}
        print(json.dumps(content, ensure_ascii=False))
    return code


def own_traceback(error: BaseException) -> str:
    """Return the traceback of an error and of what caused it: only the frames of the user's own code.

    Errors that are meant for the user have none. One that nobody's code but lehr's took part in is shown whole.

    >>> own_traceback(LehrError("steps=0 is refused"))
    ''
    """
    shown = ""
    for link in reversed(list(_causes(error))):
        frames = [frame for frame in traceback.extract_tb(link.__traceback__) if _is_own(frame.filename)]
        if not isinstance(link, LehrError) and (frames or isinstance(link, SyntaxError)):
            last = [] if link is error else traceback.format_exception_only(link)  # that of ``error`` is its message
            shown += "".join(["Traceback (most recent call last):\n", *traceback.format_list(frames), *last])
    if shown or isinstance(error, LehrError):
        return shown
    return "".join(traceback.format_exception(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_own(file: str) -> bool:
    """Whether a frame lies in the user's own code: not in lehr, in Python's library or in an installed package."""
    if file.startswith("<frozen"):
        return False
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    return not any(Path(file).is_relative_to(root) for root in (*installed, Path(__file__).parents[1]))
