"""Writing so that a kill, a full disk or a power cut leaves either the whole or nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

__all__ = ["hash_file", "publish", "remove_folder", "sync_folder", "write_synced"]

_BLOCK = 1 << 22


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a"
    >>> write_synced(target, b"abc"); target.read_bytes()
    b'abc'
    """
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(staged: Path, final: Path) -> None:
    """Give a finished folder its name, in one step that is there or not there after a crash.

    The folder must have been staged beside its final place, since renaming across file systems is copying.
    """
    sync_folder(staged)
    if final.exists():
        remove_folder(final)
    staged.rename(final)
    sync_folder(final.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder; it loses its name first, so that a crash half way leaves nothing that looks whole."""
    doomed = folder.with_name(f".removed-{folder.name}-{os.getpid()}")
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
