"""Reading what a user names, with one clear sentence where it cannot be read."""

from __future__ import annotations

from pathlib import Path

from lehr.base.errors import DataError

__all__ = ["read_bytes"]


def read_bytes(path: Path, field: str = "data.path") -> bytes:
    """Return the content of a file that must exist, be readable and hold something.

    >>> read_bytes(Path("/no/such/file"))
    Traceback (most recent call last):
    ...
    lehr.base.errors.DataError: data.path='/no/such/file' does not exist; give the path of a file
    """
    if not path.exists():
        raise DataError(f"{field}={str(path)!r} does not exist; give the path of a file")
    if path.is_dir():
        raise DataError(f"{field}={str(path)!r} is a folder; give the path of a file in it")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{field}={str(path)!r} cannot be read: {error.strerror or error}") from None
    if not content:
        raise DataError(f"{field}={str(path)!r} is empty; give a file with data in it")
    return content
