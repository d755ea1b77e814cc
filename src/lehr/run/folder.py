"""The run folder: what lies where, who may write to it, and where a new one goes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from lehr.base.errors import FAILED, LehrError, SettingError
from lehr.base.settings import strict
from lehr.checkpoint.files import write_synced

__all__ = ["RunFolder", "claim_new", "give_up"]


class RunFolder:
    """``recipe.json environment.json metrics.jsonl checkpoints/ report.html result.json``, and of some runs
    ``failure.json`` or ``profile/``.
    """

    def __init__(self, path: Path) -> None:
        self._given = path
        self.path = path = path.absolute()  # the user's code may change the directory
        self.recipe = path / "recipe.json"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.report = path / "report.html"
        self.result = path / "result.json"
        self.failure = path / "failure.json"
        self.profile = path / "profile"

    def __str__(self) -> str:
        return str(self._given if self._given.absolute() == self.path else self.path)

    def create(self) -> None:
        """Make the folder; one that holds a run already, or anything else, is refused."""
        if self.recipe.exists():
            raise SettingError(
                f"{self} already holds a run; go on with it by `lehr resume {self}`, or give another folder with --run"
            )
        if self.path.exists() and not self.path.is_dir():
            raise SettingError(f"{self} is a file; give a folder with --run")
        if self.path.is_dir() and not all(map(_left_by_a_start, self.path.iterdir())):
            raise SettingError(f"{self} is not empty, and holds no run; give a new folder with --run, or empty it")
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingError(f"the run folder {self} cannot be made: {error.strerror or error}") from None

    def need(self) -> None:
        """Refuse a folder that holds no run."""
        if not self.recipe.is_file():
            raise SettingError(f"{self} holds no run (it has no recipe.json); give the folder of a run")

    def write_json(self, file: Path, content: Any) -> None:
        """Write a small file of strict JSON whole or not at all."""
        staged = file.with_name(f".{file.name}-{os.getpid()}")
        write_synced(staged, (json.dumps(strict(content), indent=1, ensure_ascii=False) + "\n").encode())
        staged.replace(file)

    def read_recipe(self) -> dict[str, Any]:
        """Return recipe.json."""
        self.need()
        try:
            content: dict[str, Any] = json.loads(self.recipe.read_bytes())
        except ValueError:
            raise SettingError(f"{self}/recipe.json is damaged: it is not JSON") from None
        missing = {"source", "overrides", "fields", "facts", "hashes"} - set(content)
        if missing:
            raise SettingError(f"{self}/recipe.json is damaged: it lacks {', '.join(sorted(missing))}")
        return content

    def ended(self) -> dict[str, Any] | None:
        """Return result.json of a run that came to its end, or None: it then has something left to do."""
        if not self.result.is_file():
            return None
        content: dict[str, Any] = json.loads(self.result.read_bytes())
        return None if content["stopped"] in {"preempted", "left"} else content

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, so that a second process does not write to the same run; a failure leaves evidence in it."""
        with (self.path / ".lock").open("w") as lock:
            try:
                # lockf, not flock: the worker processes of a killed run live on for seconds, and would hold the latter
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise SettingError(
                    f"another process is writing to {self}; wait for it, or give another folder with --run"
                ) from None
            earlier = {file: file.read_bytes() for file in (self.result, self.failure) if file.exists()}
            for file in earlier:  # what an earlier session came to no longer holds
                file.unlink()
            try:
                yield
            except Exception as error:
                begun = self.failure.exists() or self.result.exists()
                if isinstance(error, SettingError) and not begun:  # refused: nothing has happened
                    for file, content in earlier.items():
                        file.write_bytes(content)
                else:
                    self._keep_evidence(error)
                raise

    def _keep_evidence(self, error: Exception) -> None:
        """Say where the evidence of a failure is, and write it if nobody has."""
        if isinstance(error, LehrError):
            error.exit_code, error.run = FAILED, str(self)
        try:
            if not self.failure.exists():
                self.write_json(self.failure, {"error": type(error).__name__, "message": str(error)})
        except OSError as unwritten:
            error.add_note(f"{self}/failure.json could not be written: {unwritten.strerror or unwritten}")
        else:
            error.add_note(f"what is known about it is in {self}/failure.json")


def _left_by_a_start(path: Path) -> bool:
    """Whether a run that was killed before it could write its recipe.json leaves such a thing behind."""
    if path.name == "checkpoints":
        return path.is_dir() and not any(path.iterdir())
    return path.name in {".lock", "environment.json"} or path.name.startswith((".recipe.json-", ".environment.json-"))


def claim_new(recipe: str) -> Path:
    """Make a folder below ``runs/`` that no other run has, not even one that starts in the same second; returns it."""
    base = Path("runs") / f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}"
    path, place = base, 2
    while True:
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            path, place = base.with_name(f"{base.name}-{place}"), place + 1
        except OSError as error:
            raise SettingError(f"the run folder {path} cannot be made: {error.strerror or error}") from None
        else:
            return path


def give_up(claimed: Path) -> None:
    """Remove a claimed folder, if no run has begun in it."""
    with contextlib.suppress(OSError):  # it is not empty, or gone
        claimed.rmdir()
        claimed.parent.rmdir()
