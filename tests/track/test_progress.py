"""Progress: a live line on a terminal; elsewhere few plain lines, however long the run is."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lehr.track import Progress
from lehr.track.progress import GAP_SECONDS, progress_line


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Log(io.StringIO):
    """A file that notes when its lines came."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.times = clock, list[float]()

    def write(self, text: str) -> int:
        self.times += [self.clock.now] * text.count("\n")
        return super().write(text)


def train(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "split": "train", "loss": 2.5, "lr": 1e-3, "samples_per_second": 1234.0, **more}


@pytest.mark.parametrize("step_seconds", [0.01, 10.0])
def test_a_million_steps_fill_less_than_100_kb_of_a_log_file(step_seconds: float) -> None:
    clock, steps = Clock(), 1_000_000
    log = Log(clock)
    progress = Progress(total_steps=steps, stream=log, clock=clock)
    record = train(0)
    for step in range(1, steps + 1):
        clock.now += step_seconds
        record["step"] = step
        progress.log(record)
    progress.close()
    text = log.getvalue()
    assert text.count("\n") > 50
    assert len(text) < 100_000
    assert not re.search(r"[^\x20-\x7e\n]", text), "nothing but printable characters and ends of lines"
    assert min(b - a for a, b in zip(log.times, log.times[1:], strict=False)) >= GAP_SECONDS
    assert max(b - a for a, b in zip(log.times, log.times[1:], strict=False)) < 0.03 * steps * step_seconds


@pytest.mark.parametrize("split", ["val", "withheld"])
def test_validations_and_withheld_updates_do_not_flood_a_log_file(split: str) -> None:
    clock = Clock()
    log = Log(clock)
    progress = Progress(total_steps=10_000, stream=log, clock=clock)
    for step in range(1, 10_000):
        clock.now += 0.01
        progress.log(
            {"step": step, "split": "val", "loss": 1.25} if split == "val" else train(step, loss=0.0, withheld="empty")
        )
        progress.log(train(step, skipped=step, empty=1))
    progress.close()
    last = log.getvalue().splitlines()[-1]
    assert len(log.times) <= 100 / GAP_SECONDS + 1
    assert ("val loss 1.25" in last) == (split == "val")
    assert re.search(r"\d+ updates withheld", last)
    assert "loss 0.0000" not in log.getvalue(), "a withheld update is not shown as if it were one"


def test_the_first_record_is_shown_at_once_and_the_time_left_is_measured_from_it() -> None:
    clock, log = Clock(), io.StringIO()
    progress = Progress(total_steps=1000, stream=log, clock=clock)
    clock.now += 100
    progress.log(train(500))
    progress.log({"step": 500, "split": "val", "loss": 1.5})
    clock.now += 20
    progress.log(train(510))
    first, second = log.getvalue().splitlines()
    assert first == "step 500/1000  loss 2.5000  lr 0.001  1.2k samples/s"
    assert second == "step 510/1000  loss 2.5000  val loss 1.5  lr 0.001  1.2k samples/s  16:20 left"


def test_nothing_is_shown_before_the_first_training_record() -> None:
    log = io.StringIO()
    progress = Progress(total_steps=1000, stream=log, clock=Clock())
    progress.log({"step": 0, "split": "val", "loss": 1.5})
    assert not log.getvalue()
    progress.log(train(1))
    assert log.getvalue().startswith("step 1/1000  loss 2.5000  val loss 1.5")


def test_a_run_of_unknown_length_has_no_end_to_be_shown() -> None:
    clock, log = Clock(), io.StringIO()
    progress = Progress(total_steps=None, stream=log, clock=clock)
    for step in (10, 20):
        progress.log(train(step))
        clock.now += 60
    first, second = log.getvalue().splitlines()
    assert first.startswith("step 10  loss") and second.startswith("step 20  loss")
    assert "left" not in second


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_shown_as_it_is(value: float) -> None:
    assert f"loss {value}" in progress_line(train(1) | {"loss": value}, {}, total=2, seconds_left=None)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (3599.7, "1:00:00"), (90_061, "25:01:01")]
)
def test_the_time_left_is_rounded_to_seconds(seconds: float, shown: str) -> None:
    assert progress_line(train(1), {}, total=2, seconds_left=seconds).endswith(f"  {shown} left")


class Terminal:
    """A pseudo-terminal, and all that was written to it."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w")
        self._received = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                self._received += os.read(self._master, 4096)
            except OSError:  # the other end was closed
                return

    def text(self) -> str:
        """Close it, and return what was written."""
        self.stream.close()
        self._reader.join()
        os.close(self._master)
        return self._received.decode()

    def screen(self) -> list[str]:
        """Return the lines that are on the screen in the end."""
        lines, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", self.text()):
            if part == "\r":
                column = 0
            elif part == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif part.endswith("A"):
                row -= int(part[2:-1] or 1)
            elif part == "\x1b[2K":
                lines[row] = ""
            elif not part.startswith("\x1b"):
                lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
                column += len(part)
        return [line.rstrip() for line in lines if line.strip()]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    for name in ("TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": "120", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    yield terminal
    terminal.stream.close()


def test_a_terminal_has_one_line_that_is_rewritten(terminal: Terminal) -> None:
    clock = Clock()
    progress = Progress(total_steps=50, stream=terminal.stream, clock=clock)
    for step in range(1, 51):
        clock.now += 1
        progress.log(train(step))
    progress.close()
    screen = terminal.screen()
    assert screen == ["step 50/50  loss 2.5000  lr 0.001  1.2k samples/s  0:00 left"]
    text = terminal._received.decode()
    assert all(f"step {step}/50" in text for step in range(1, 51))
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is there again"


def test_the_last_state_stays_on_the_terminal_though_updates_are_few(terminal: Terminal) -> None:
    clock = Clock()
    progress = Progress(total_steps=100_000, stream=terminal.stream, clock=clock)
    for step in range(1, 10_001):
        clock.now += 0.0001
        progress.log(train(step))
    progress.log({"step": 10_000, "split": "val", "loss": 0.5})
    progress.close()
    assert [line.split("  ")[:3] for line in terminal.screen()] == [
        ["step 10000/100000", "loss 2.5000", "val loss 0.5"]
    ]
    assert len(terminal._received) < 10_000


def test_what_is_printed_meanwhile_stands_above_the_line(terminal: Terminal) -> None:
    stderr = sys.stderr
    progress = Progress(total_steps=2, stream=terminal.stream, clock=Clock())
    progress.log(train(1))
    print("a warning", file=sys.stderr)
    progress.close()
    assert sys.stderr is stderr
    above, line = terminal.screen()
    assert above == "a warning" and line.startswith("step 1/2")


def test_standard_output_that_is_no_terminal_is_left_alone(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(total_steps=2, stream=terminal.stream, clock=Clock())
    print('{"for": "a file"}')
    progress.close()
    assert capsys.readouterr().out == '{"for": "a file"}\n'


def test_a_terminal_that_cannot_move_its_cursor_has_plain_lines(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    clock = Clock()
    progress = Progress(total_steps=2, stream=terminal.stream, clock=clock)
    for step in (1, 2):
        progress.log(train(step))
        clock.now += 10
    progress.close()
    text = terminal.text()
    assert [line[:8] for line in text.splitlines()] == ["step 1/2", "step 2/2"] and "\x1b" not in text


def test_progress_has_no_thread(terminal: Terminal) -> None:
    before = threading.active_count()
    progress = Progress(total_steps=2, stream=terminal.stream, clock=Clock())
    progress.log(train(1))
    assert threading.active_count() == before
    progress.close()
