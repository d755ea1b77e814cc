"""An error at any single system call of a save: the run says so, a checkpoint is there, and going on is exact."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from helpers import exact, recipe, same_files

import lehr
from lehr.base.errors import CheckpointError
from lehr.checkpoint import CheckpointStore
from lehr.run.recipe import Recipe, Save
from lehr.run.saver import Saver

LAST = "checkpoints/step-00000015"
CREATES = {"open", "write", "fsync", "mkdir", "rename", "replace"}


@dataclass
class Faults:
    """Lets one system call of the save of step 10 fail: alone, or with all later ones that need room."""

    place: int
    code: int
    stays: bool
    armed: bool = False
    calls: list[str] = field(default_factory=list)

    def call(self, name: str) -> None:
        if not self.armed:
            return
        self.calls.append(name)
        late = self.stays and len(self.calls) > self.place and name in CREATES
        if len(self.calls) == self.place or late:
            raise OSError(self.code, os.strerror(self.code))

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("fsync", "mkdir", "rename", "replace", "unlink", "rmdir"):
            patch.setattr(os, name, self.guarded(name, getattr(os, name)))
        patch.setattr(Path, "open", self.opened(Path.open))
        save = Saver.__call__

        def armed(saver: Saver, step: int, value: float | None) -> str:
            self.armed = step == 10
            path = save(saver, step, value)
            self.armed = False
            return path

        patch.setattr(Saver, "__call__", armed)

    def guarded(self, name: str, real: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            self.call(name)
            return real(*given, **named)

        return call

    def opened(self, real: Any) -> Any:
        def call(path: Path, mode: str = "r", *given: Any, **named: Any) -> Any:
            if "w" not in mode:
                return real(path, mode, *given, **named)
            self.call("open")
            file = real(path, mode, *given, **named)
            return HalfWritten(file, self) if self.armed else file

        return call


class HalfWritten:
    """A file of which a write that fails has written half."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self.file, self.faults = file, faults

    def __enter__(self) -> HalfWritten:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, content: bytes) -> int:
        try:
            self.faults.call("write")
        except OSError:
            self.file.write(content[: len(content) // 2])
            raise
        return int(self.file.write(content))


def made() -> Recipe:
    """Keep one checkpoint, so that the save of step 10 lets go of that of step 5."""
    return recipe(save=Save(every=5, keep=1, best=False))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    lehr.train(made(), run_dir=run)
    return run


def staged(run: Path) -> Iterator[str]:
    return (path.name for path in run.rglob("*") if re.match(r"\.(partial|removed)-|\..*\.json-", path.name))


@pytest.mark.filterwarnings("ignore:the old checkpoint")
@pytest.mark.parametrize(("code", "stays"), [(errno.EACCES, False), (errno.ENOSPC, True)], ids=["once", "from then on"])
def test_at_every_call_of_a_save(tmp_path: Path, whole: Path, code: int, stays: bool) -> None:
    failed, place = 0, 0
    while True:
        place += 1
        run, faults = tmp_path / str(place), Faults(place, code, stays)
        with pytest.MonkeyPatch.context() as patch:
            faults.install(patch)
            try:
                lehr.train(made(), run_dir=run)
            except CheckpointError as error:
                failed += 1
                assert os.strerror(code) in str(error)
                assert error.run == str(run)
        if len(faults.calls) < place:
            break
        where = f"call {place}, {faults.calls[place - 1]}"
        found = CheckpointStore(run / "checkpoints").newest()
        assert found is not None and found.step in (5, 10, 15), where
        assert not found.passed_over, where
        lehr.resume(run, recipe=made())
        assert list(staged(run)) == [], where
        assert exact(run) == exact(whole), where
        same_files(run / LAST, whole / LAST, ["model.safetensors", "optimizer.safetensors"])
    assert {"open", "write", "fsync", "mkdir", "rename", "unlink", "rmdir"} <= set(faults.calls)
    assert failed >= 15, "all but the removal of the old one"
