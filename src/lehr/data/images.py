"""A folder of pictures, one folder per class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import Dataset

from lehr.base import seeds
from lehr.base.errors import DataError
from lehr.base.optional import need
from lehr.data.data import Data, Splits

__all__ = ["ImageFolderData", "PictureFiles"]

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


class PictureFiles(Dataset[tuple[Tensor, int]]):
    """Picture files and their classes, read with Pillow as (3, size, size) between -1 and 1."""

    def __init__(self, files: Sequence[tuple[Path, int]], size: int) -> None:
        self.files, self.size = list(files), size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image: Any = need("PIL.Image", extra="data", why="reading pictures")
        path, label = self.files[index]
        with image.open(path) as opened:
            picture = opened.convert("RGB").resize((self.size, self.size))
            pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32).copy())
        return pixels.permute(2, 0, 1) / 127.5 - 1, label


class ImageFolderData(Data):
    """Pictures below ``path/CLASS/``; a fifth of each class is held out."""

    path: Path | None = None
    """A folder with one folder per class."""
    size: int = Field(default=32, ge=8)
    """Width and height that each picture is scaled to."""
    val_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of each class that is held out; which pictures does not depend on the run's seed."""

    def open(self) -> Splits:
        """List the files; pictures are read when they are needed."""
        need("PIL", extra="data", why="reading pictures")
        if self.path is None:
            raise DataError("this recipe needs pictures: --set data.path=FOLDER with one folder per class")
        if not self.path.exists():
            raise DataError(f"data.path={str(self.path)!r} does not exist; give a folder that holds a folder per class")
        if not self.path.is_dir():
            raise DataError(f"data.path={str(self.path)!r} is not a folder; give one that holds a folder per class")
        classes = {
            folder.name: sorted(f for f in folder.rglob("*") if f.suffix.lower() in ENDINGS)
            for folder in sorted(self.path.iterdir())
            if folder.is_dir()
        }
        classes = {name: found for name, found in classes.items() if found}
        if len(classes) < 2:
            raise DataError(
                f"data.path={str(self.path)!r} has pictures in {len(classes)} folders; give one with a folder of "
                f"pictures ({', '.join(sorted(ENDINGS))}) for each of at least two classes"
            )
        small = [name for name, found in classes.items() if len(found) < 2]
        if small:
            raise DataError(f"the class {small[0]!r} has one picture; give at least two, one of which is held out")
        training, held_out = [], []
        for label, found in enumerate(classes.values()):
            order = torch.randperm(len(found), generator=seeds.generator(0, "images", label)).tolist()
            cut = max(1, int(len(found) * self.val_share))
            held_out += [(found[i], label) for i in order[:cut]]
            training += [(found[i], label) for i in order[cut:]]
        return Splits(
            train=PictureFiles(training, self.size),
            val=PictureFiles(held_out, self.size),
            facts={
                "channels": 3,
                "num_classes": len(classes),
                "classes": list(classes),
                "train_samples": len(training),
                "val_samples": len(held_out),
                "files_sha256": _hash_of_names(training + held_out, self.path),
            },
        )


def _hash_of_names(files: Sequence[tuple[Path, int]], root: Path) -> str:
    """Return a hash of the files' names and sizes; their content would take as long to read as an epoch."""
    listed = sorted(f"{file.relative_to(root)} {file.stat().st_size}" for file, _ in files)
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()
