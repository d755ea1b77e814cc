"""The checkpoints of one run: save, find the newest that verifies, keep the best and the last few."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
from safetensors import SafetensorError

from lehr.base.errors import CheckpointError, LehrWarning
from lehr.checkpoint import files
from lehr.checkpoint.encode import decode, encode

__all__ = ["FORMAT", "CheckpointStore", "Found"]

FORMAT = 1
"""Version of the layout; a reader refuses a newer one."""
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Found:
    """A checkpoint that was verified, and what was passed over on the way to it."""

    path: Path
    manifest: Mapping[str, Any]
    passed_over: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """The number of updates it holds."""
        return int(self.manifest["step"])


class CheckpointStore:
    """The folder ``checkpoints/`` of a run. One folder per checkpoint: ``step-00001000/``.

    >>> import tempfile, torch
    >>> store = CheckpointStore(Path(tempfile.mkdtemp()), keep=1)
    >>> store.save(3, {"model": {"w": torch.ones(2)}}).name
    'step-00000003'
    >>> store.read(store.newest())["model"]["w"]
    tensor([1., 1.])
    """

    def __init__(
        self, folder: Path, *, keep: int = 2, goal: Literal["min", "max"] = "min", monitor: str | None = None
    ) -> None:
        self.folder, self.keep, self.goal, self.monitor = folder, keep, goal, monitor
        self._intact: dict[str, bool] = {}
        """Which checkpoints this process has found intact or damaged, by name."""

    # --- writing

    def save(
        self,
        step: int,
        parts: Mapping[str, Any],
        *,
        value: float | None = None,
        keep: bool = False,
        note: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write one checkpoint, verify it, then let go of old ones; returns its folder.

        ``value`` is what the best checkpoint is chosen by, and ``note`` is for the manifest. One to ``keep`` is never
        removed. A failure raises `CheckpointError` and leaves every earlier checkpoint as it was.
        """
        final = self.folder / f"step-{step:08d}"
        staged = self.folder / f".partial-{final.name}-{os.getpid()}"
        try:
            staged.mkdir(parents=True)
            hashes = _write_parts(staged, parts)
            manifest = {
                "format": FORMAT,
                "step": step,
                "value": value,
                "kept": keep,
                "note": dict(note or {}),
                "files": hashes,
            }
            files.write_synced(staged / "manifest.json", _json(manifest))
            _verify(staged)
            files.publish(staged, final)
        except (OSError, SafetensorError, CheckpointError) as error:
            shutil.rmtree(staged, ignore_errors=True)
            raise CheckpointError(self._failure(step, error)) from error
        self._let_go(just_saved=final)
        return final

    def _failure(self, step: int, error: Exception) -> str:
        intact = self.paths()
        held = f"{intact[-1]} is intact" if intact else "there is no earlier one"
        return f"the checkpoint of step {step} could not be written to {self.folder}: {error}. {held}"

    def _let_go(self, just_saved: Path) -> None:
        """Remove what is not to be kept, nor the best, nor among the newest ``keep``; only after a verified save.

        Only those that verify are counted, or one that is damaged would take the place of the best; they are looked at
        once in a process, when first they would be kept. What is damaged stays.
        """
        self._intact[just_saved.name] = True
        paths = self.paths()
        newest = itertools.islice(filter(self._is_intact, reversed(paths)), self.keep)
        best = itertools.islice(filter(self._is_intact, self._ranked()), 1)
        kept = {*newest, *best, *(path for path in paths if self._told(path).get("kept")), just_saved}
        for path in paths:
            if path not in kept and self._intact.get(path.name, True):
                try:
                    files.remove_folder(path)
                except OSError as error:  # the new checkpoint is there, which is what counts
                    warnings.warn(f"the old checkpoint {path} could not be removed: {error}", LehrWarning, stacklevel=3)

    def _is_intact(self, path: Path) -> bool:
        if path.name not in self._intact:
            self._check(path)
        return self._intact[path.name]

    def _check(self, path: Path) -> Found | str:
        """Verify a checkpoint and remember how it was; returns what is wrong with it where something is."""
        self._intact[path.name] = False
        try:
            manifest = _verify(path)
        except (OSError, CheckpointError) as error:
            return f"{path.name}: {error}"
        self._intact[path.name] = True
        return Found(path, manifest)

    def clean(self) -> None:
        """Remove what interrupted saves and deletions left behind."""
        for leftover in [*self.folder.glob(".partial-*"), *self.folder.glob(".removed-*")]:
            shutil.rmtree(leftover, ignore_errors=True)

    # --- reading

    def paths(self) -> list[Path]:
        """Return the checkpoint folders, oldest first, verified or not."""
        if not self.folder.is_dir():
            return []
        named = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(named, key=lambda path: int(path.name.removeprefix("step-")))

    def newest(self) -> Found | None:
        """Return the newest checkpoint that verifies; what is damaged is passed over and named, never deleted."""
        return self._first_intact(reversed(self.paths()))

    def best(self) -> Found | None:
        """Return the one with the best value, among those that verify; the newest where none of them has any."""
        ranked = self._ranked()
        return self._first_intact([*ranked, *(path for path in reversed(self.paths()) if path not in ranked)])

    def _ranked(self) -> list[Path]:
        """Return the checkpoints whose manifests have a value, the best first; an earlier one wins a tie."""
        sign = 1 if self.goal == "min" else -1
        values = {path: value for path in self.paths() if (value := self._value(path)) is not None}
        return sorted(values, key=lambda path: sign * values[path])

    def _value(self, path: Path) -> float | None:
        """Return a checkpoint's value, unless the run went by another one (``note["monitor"]``) when it was saved."""
        manifest = self._told(path)
        value, monitor = manifest.get("value"), manifest.get("note", {}).get("monitor", self.monitor)
        return float(value) if value is not None and self.monitor in {None, monitor} else None

    def _told(self, path: Path) -> dict[str, Any]:
        """Return a checkpoint's manifest unverified, with nothing in it where it cannot be read."""
        try:
            manifest = json.loads((path / "manifest.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return manifest if isinstance(manifest, dict) else {}

    def kept(self) -> list[Found]:
        """Return those that were saved to be kept, oldest first; damaged ones are passed over with a warning."""
        found = []
        for path in self.paths():
            if self._told(path).get("kept"):
                checked = self._check(path)
                if isinstance(checked, Found):
                    found.append(checked)
                else:
                    warnings.warn(f"passed over a damaged checkpoint: {checked}", LehrWarning, stacklevel=2)
        return found

    def _first_intact(self, paths: Any) -> Found | None:
        passed_over: list[str] = []
        for path in paths:
            found = self._check(path)
            if isinstance(found, Found):
                return replace(found, passed_over=tuple(passed_over))
            passed_over.append(found)
        if passed_over:
            raise CheckpointError(f"none of the checkpoints in {self.folder} is intact:\n  " + "\n  ".join(passed_over))
        return None

    def read(self, found: Found) -> dict[str, Any]:
        """Return the parts of a verified checkpoint."""
        parts = {}
        try:
            for name, content in json.loads((found.path / "state.json").read_bytes()).items():
                tensors = found.path / f"{name}.safetensors"
                loaded = safetensors.torch.load_file(tensors) if tensors.name in found.manifest["files"] else {}
                parts[name] = decode(content, loaded)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(
                f"{found.path} cannot be read, although it is what its manifest says: {error}"
            ) from error
        return parts


def _write_parts(folder: Path, parts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Write the tensors of each part and the JSON of all; return {file: {bytes, sha256}}."""
    plain, written = {}, {}

    def write(name: str, content: bytes) -> None:
        files.write_synced(folder / name, content)
        written[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    for name, state in parts.items():
        plain[name], tensors = encode(state, name)
        if tensors:
            write(f"{name}.safetensors", safetensors.torch.save({k: t.contiguous() for k, t in tensors.items()}))
    write("state.json", _json(plain))
    return written


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, indent=1).encode()


def _verify(path: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint whose files are all there, of the recorded size and content."""
    manifest = path / "manifest.json"
    if not manifest.is_file():
        raise CheckpointError("it has no manifest.json, so it was never finished")
    try:
        content: dict[str, Any] = json.loads(manifest.read_bytes())
        recorded = {str(name): (int(f["bytes"]), str(f["sha256"])) for name, f in content["files"].items()}
        version = int(content["format"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError("its manifest.json is damaged") from None
    if version > FORMAT:
        raise CheckpointError(f"it has format {version}, newer than this lehr reads ({FORMAT}); update lehr")
    for name, (size, digest) in recorded.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{name} is missing")
        if file.stat().st_size != size:
            raise CheckpointError(f"{name} has {file.stat().st_size} bytes instead of {size}")
        if files.hash_file(file) != digest:
            raise CheckpointError(f"{name} is damaged: its content does not match the manifest")
    return content
