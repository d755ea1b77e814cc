"""The drawing in loop.py shows exactly the events that there are, in the order in which they are called."""

from __future__ import annotations

import re
from pathlib import Path

import lehr.training.loop as loop
from lehr.base.protocols import Method, Observer
from lehr.training.events import Event, Listeners

SOURCE = Path(loop.__file__).parent


def drawn() -> list[str]:
    assert loop.__doc__ is not None
    return re.findall(r"\b[A-Z]{3,}_[A-Z]+\b|\bLOGGED\b", loop.__doc__.split("An update is withheld")[0])


def test_drawing_has_every_event_once() -> None:
    assert sorted(drawn()) == sorted(event.name for event in Event)
    assert len(Event) <= 12


def test_drawing_follows_the_order_of_the_enumeration() -> None:
    assert drawn() == [event.name for event in Event]


def test_every_event_is_called_where_it_is_drawn() -> None:
    called = "".join((SOURCE / name).read_text() for name in ("loop.py", "failing.py", "steps/eager.py"))
    for event in Event:
        if hasattr(Observer, event.value) and event.value != "step_end":
            assert f"Event.{event.name}" in called, f"{event.name} is drawn but never emitted"
    for name in ("batch_ready", "loss_ready", "grads_ready"):
        assert re.search(rf"in self\.listeners\.{name}:", called), f"methods are never asked at {name}"
    assert "self.listeners.change_model(" in called
    assert "Event.STEP_END" in called


def test_every_hook_of_a_listener_is_an_event() -> None:
    values = {event.value for event in Event}
    for kind in (Observer, Method):
        hooks = {n for n, v in vars(kind).items() if callable(v) and not n.startswith("_")}
        assert hooks <= values, f"{kind.__name__} has {hooks - values}, which no event calls"


def test_closing_events_are_called_in_reverse() -> None:
    calls: list[str] = []

    class Talker(Observer):
        def __init__(self, name: str) -> None:
            self.name = name

        def run_start(self, place: object) -> None:
            calls.append(f"{self.name} start")

        def run_end(self, place: object, reason: str) -> None:
            calls.append(f"{self.name} end")

    listeners = Listeners([Talker("a"), Talker("b")])
    listeners.emit(Event.RUN_START, None)
    listeners.emit(Event.RUN_END, None, "finished")
    assert calls == ["a start", "b start", "b end", "a end"]
