"""The events of a run, and who is called at each: in list order, reversed for the closing event of a pair."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from lehr.base.errors import CheckpointError, SettingError, StopRun
from lehr.base.protocols import Method, Observer, Place, Stateful

__all__ = ["Event", "Listeners"]


class Event(enum.Enum):
    """The events, in the order in which a step meets them; drawn in the docstring of `lehr.training.loop`."""

    RUN_START = "run_start"
    BATCH_READY = "batch_ready"
    LOSS_READY = "loss_ready"
    GRADS_READY = "grads_ready"
    RATE_READY = "rate_ready"
    STEP_END = "step_end"
    LOGGED = "logged"
    EVAL_START = "eval_start"
    EVAL_END = "eval_end"
    SAVE_DONE = "save_done"
    RUN_END = "run_end"
    RUN_FAILED = "run_failed"


CLOSING = {Event.EVAL_END, Event.RUN_END, Event.RUN_FAILED}
"""Events that close a pair; their listeners are called in reverse order."""

_NEEDS = {
    "run_start": "model",
    "batch_ready": "batch",
    "loss_ready": "loss",
    "grads_ready": "gradients",
    "rate_ready": "rate",
    "step_end": "model",
}


class Listeners:
    """The observers and methods of a run, sorted once by the events that they override.

    >>> class Talk(Observer):
    ...     def run_start(self, place): print("hello")
    >>> Listeners([Talk()]).emit(Event.RUN_START, None)
    hello
    """

    def __init__(self, given: Sequence[Any]) -> None:
        for listener in given:
            _check(listener)
        self.given = tuple(given)
        methods = [g for g in given if isinstance(g, Method)]
        self._starts = _overriding(methods, Method, "run_start")
        self.batch_ready = _overriding(methods, Method, "batch_ready")
        self.loss_ready = _overriding(methods, Method, "loss_ready")
        self.grads_ready = _overriding(methods, Method, "grads_ready")
        self.rate_ready = _overriding(methods, Method, "rate_ready")
        self.model_changes = _overriding(methods, Method, "step_end")
        observers = [g for g in given if isinstance(g, Observer)]
        self._observers = {
            event: _overriding(observers, Observer, event.value)[:: -1 if event in CLOSING else 1]
            for event in Event
            if hasattr(Observer, event.value)
        }
        each_step = (self.batch_ready, self.loss_ready, self.grads_ready, self.rate_ready, self.model_changes)
        self.need_place = any(each_step) or bool(self._observers[Event.STEP_END])
        self.stop_asked: str | None = None

    def set_up(self, model: nn.Module, place: Place) -> None:
        """Let every method put the model into the state that belongs to this place of the run."""
        for start in self._starts:
            start(model, place)

    def emit(self, event: Event, *what: Any) -> None:
        """Call every observer of ``event``; the first `StopRun` is kept in ``stop_asked``, and nobody is left out."""
        for listener in self._observers[event]:
            try:
                listener(*what)
            except StopRun as request:
                self.ask_to_stop(request.reason)

    def change_model(self, model: nn.Module, place: Place) -> None:
        """Let every method change the model after an update; one that raises `StopRun` asks for a stop."""
        for change in self.model_changes:
            try:
                change(model, place)
            except StopRun as request:
                self.ask_to_stop(request.reason)

    def ask_to_stop(self, reason: str) -> None:
        """Ask for a stop at the end of the step; the first reason is kept."""
        self.stop_asked = self.stop_asked or reason

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each listener that has one, under its type and its place among those of that type."""
        return {name: listener.state_dict() for name, listener in self.stateful().items()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Give each listener its state back; another list of listeners is an error."""
        stateful = self.stateful()
        if set(stateful) != set(state):
            raise CheckpointError(
                f"the run was saved with the methods {sorted(state) or 'none'}, but the recipe has "
                f"{sorted(stateful) or 'none'}"
            )
        for name, listener in stateful.items():
            listener.load_state_dict(state[name])

    def stateful(self) -> dict[str, Any]:
        """Return the listeners that have a state, under the names that it is saved by."""
        named: dict[str, Any] = {}
        for listener in self.given:
            if isinstance(listener, Stateful):
                kind = type(listener).__name__
                named[f"{kind}-{sum(name.startswith(f'{kind}-') for name in named)}"] = listener
        return named


def _overriding(listeners: Sequence[Any], base: type, name: str) -> tuple[Callable[..., Any], ...]:
    return tuple(getattr(g, name) for g in listeners if getattr(type(g), name) is not getattr(base, name))


def _check(listener: Any) -> None:
    """Refuse what is neither an observer nor a method, and a method that touches what it does not declare."""
    if isinstance(listener, Observer):
        return
    if not isinstance(listener, Method):
        raise SettingError(
            f"methods holds {listener!r}, which is neither a lehr Method nor an Observer; give an instance of a "
            "class derived from one of them"
        )
    for name, change in _NEEDS.items():
        if _overriding([listener], Method, name) and change not in listener.changes:
            raise SettingError(
                f"{type(listener).__name__} has {name}() but does not declare {change!r} in `changes`; "
                f"write changes = frozenset({{{change!r}}})"
            )
