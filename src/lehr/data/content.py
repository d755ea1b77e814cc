"""What tensors and arrays hold, as a hash: enough to know, when a run is resumed, whether they are the same."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

__all__ = ["content_facts"]

WHOLE = 256 << 20
"""Bytes up to which all of them are hashed, in 0.2 s; beyond, the first and the last `END` of each column."""
END = 1 << 20


def content_facts(**given: Any) -> dict[str, str]:
    """Return {name_sha256: hash} of what is tensors or arrays, alone or as columns; nothing about what is not.

    >>> content_facts(train=torch.zeros(2), val=[1, 2])
    {'train_sha256': 'f288860b07501fe2'}
    """
    hashes = {f"{name}_sha256": _hash(data) for name, data in given.items()}
    return {name: digest for name, digest in hashes.items() if digest is not None}


def _hash(given: Any) -> str | None:
    given = given.tensors if isinstance(given, TensorDataset) else given
    named = (
        given.items() if isinstance(given, dict) else enumerate(given) if isinstance(given, tuple) else [("", given)]
    )
    columns = [(name, _tensor(v)) for name, v in named]
    if not columns or not all(isinstance(v, Tensor) and v.layout == torch.strided for _, v in columns):
        return None
    whole = sum(column.nbytes for _, column in columns) <= WHOLE
    digest = hashlib.sha256()
    for name, column in columns:
        digest.update(f"{name} {column.dtype} {tuple(column.shape)}".encode())
        rows = 0 if whole else max(1, END * len(column) // column.nbytes)
        for part in (column[:rows], column[-rows:]) if rows else (column,):
            digest.update(part.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _tensor(value: Any) -> Any:
    """Return an array of numbers as a tensor, in the same memory; everything else as it is."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        return value
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor is it written to here
        return torch.from_numpy(value)
