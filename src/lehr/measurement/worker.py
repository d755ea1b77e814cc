"""An arm in a process of its own: its threads, its memory and its compiled graphs are nobody else's."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from lehr.base.errors import LehrError, SettingError
from lehr.base.settings import override
from lehr.levers.lever import Setup
from lehr.measurement.arm import Arm, ArmState, Window, arm_of
from lehr.measurement.phases import Phases
from lehr.run.origin import load
from lehr.run.recipe import Recipe

__all__ = ["ArmError", "Source", "Worker", "both"]


_CHILD = "import sys; from lehr.measurement.worker import _serve; _serve(int(sys.argv[1]))"


class ArmError(LehrError):
    """A recipe that failed while it was measured; the message names the arm and what it raised."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A recipe and changes to it, in a form that another process can be given."""

    recipe: str | Recipe
    """``file.py:function``, ``package.module:function``, or a recipe whose parts can be imported by name."""
    overrides: tuple[str, ...] = ()

    def load(self) -> Recipe:
        """Return the recipe with its changes."""
        if isinstance(self.recipe, str):
            return load(self.recipe, self.overrides)[0]
        return override(self.recipe, self.overrides)


class Worker:
    """Answers for an arm that trains elsewhere; both sides of a comparison wait while the other one works.

    With ``seconds`` it is ended, and said to have failed, where it has not answered by then.
    """

    def __init__(self, name: str, source: Source, folder: Path, *, seconds: float | None = None) -> None:
        source.load()  # what is wrong with the settings is said here, once, and before anything is started
        try:
            handed = ForkingPickler.dumps((sys.path, source, folder))  # from process to process, never to a file
        except Exception as error:  # of many kinds
            raise SettingError(
                f"the recipe cannot be handed to another process ({error}); give it as FILE.py:FUNCTION, or make it "
                "of functions and classes that a module holds by name"
            ) from None
        folder.mkdir(parents=True, exist_ok=True)
        self._name, self._said, self._failed = name, folder / "said.txt", False
        self._seconds = seconds
        self._ends = None if seconds is None else time.perf_counter() + seconds
        self._connection, there = multiprocessing.Pipe()
        # a new interpreter: one that has started threads or CUDA cannot be forked, and a script need not be run again
        with self._said.open("wb") as said, there:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(there.fileno())],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        try:
            self._connection.send_bytes(handed)
            self._answer()  # that it is ready
        except BaseException:
            self.close()
            raise

    def window(self, steps: int) -> Window:
        """Train so many steps, and say how long they took."""
        answer: Window = self._ask("window", steps)
        return answer

    def state(self) -> ArmState:
        """Say how far the training is, and what it has used."""
        answer: ArmState = self._ask("state")
        return answer

    def validate(self) -> float | None:
        """Return the validation loss of the weights as they are."""
        answer: float | None = self._ask("validate")
        return answer

    def restart(self) -> None:
        """Begin the run anew."""
        self._ask("restart")

    def setup(self) -> Setup:
        """Return what levers need to know of the run."""
        answer: Setup = self._ask("setup")
        return answer

    def phases(self, seconds: float) -> Phases:
        """Say where the time of a step goes."""
        answer: Phases = self._ask("phases", seconds)
        return answer

    @property
    def alive(self) -> bool:
        """Whether its process is there and can be asked."""
        return not self._failed and self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        self._connection.close()  # on which it ends by itself
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, *words: Any) -> Any:
        try:
            self._connection.send(words)
        except OSError:
            self._died()
        return self._answer()

    def take_your_time(self) -> None:
        """Lift the limit on its answers."""
        self._ends = None

    def _answer(self) -> Any:
        if self._ends is not None and not self._connection.poll(max(0.0, self._ends - time.perf_counter())):
            self._failed = True
            self._process.kill()
            raise ArmError(f"{self._name} did not come to an end in the {self._seconds:.0f} s it was given")
        try:
            kind, content = self._connection.recv()
        except (EOFError, OSError):
            self._died()
        if kind == "failed":
            self._failed = True
            raise ArmError(f"{self._name} failed: {content}")
        return content

    def _died(self) -> NoReturn:
        code = self._process.wait(timeout=10)
        said = self._said.read_text(errors="replace").strip()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        raise ArmError(f"{self._name}: its process {how}; the last it said: {said[-500:] or 'nothing'}")


@contextlib.contextmanager
def both(a: Source, b: Source, names: Sequence[str] = ("A", "B")) -> Iterator[tuple[Arm, Arm]]:
    """Give two arms, each in a process of its own, that end with the block."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lehr-measure-")))
        one, other = (
            stack.enter_context(Worker(name, source, folder / str(place)))
            for place, (name, source) in enumerate(zip(names, (a, b), strict=True))
        )
        yield one, other


def _serve(descriptor: int) -> None:
    """Be an arm: what a worker process runs, until its pipe is closed."""
    connection: Connection[Any, Any] = Connection(descriptor)
    with contextlib.suppress(EOFError, BrokenPipeError):  # nobody listens any more
        try:
            sys.path[:], source, folder = connection.recv()
            with arm_of(source.load(), folder) as arm:
                connection.send(("ready", None))
                while True:
                    name, *arguments = connection.recv()
                    connection.send(("done", getattr(arm, name)(*arguments)))
        except (EOFError, BrokenPipeError):
            raise
        except BaseException as error:
            traceback.print_exc()
            connection.send(("failed", f"{type(error).__name__}: {error}"))
