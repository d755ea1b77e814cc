"""The end of a run that went wrong: what is known is written down, and what was learned is saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, TypeVar

from lehr.base.protocols import Batch
from lehr.training.events import Event

if TYPE_CHECKING:
    from lehr.training.loop import Loop

__all__ = ["fail", "guarded", "save_last_whole"]

T = TypeVar("T")


def guarded(loop: Loop, call: Callable[[], T]) -> T:
    """Return ``call()``; what it raises outside of a step ends the run as an error in a step does."""
    try:
        return call()
    except Exception as error:
        fail(loop, error, None)


def fail(loop: Loop, error: Exception, batch: Batch) -> NoReturn:
    """End the run with what is known, and save it as it was after the last whole update."""
    explained = error if batch is None else loop.trouble.explained(error, batch)
    loop.trouble.note(explained, loop.clock.step)
    if not loop.update.writing and loop.trouble.left_healthy(explained):
        try:
            save_last_whole(loop)
        except Exception as unsaved:
            explained.add_note(f"the steps since the last checkpoint are lost: {unsaved}")
    try:
        loop.listeners.emit(Event.RUN_FAILED, loop.place(), explained)
    except Exception as another:
        explained.add_note(f"a listener failed as well: {type(another).__name__}: {another}")
    raise explained from (error.__cause__ if explained is error else error)


def save_last_whole(loop: Loop) -> None:
    """Put the data back before the batch in hand, and save, if there is something new."""
    before = loop.positions[-1] if loop.in_hand else None
    if loop.settle() and before is not None:  # else the loader has been put back to an earlier step
        loop.loader.load_state_dict(before)
    if loop.saved_at != loop.clock.step:
        loop.save_now()
