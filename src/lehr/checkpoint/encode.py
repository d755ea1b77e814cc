"""Between nested state and files: tensors to one side, JSON with references to the other. Never pickle.

Tensors that share memory (tied weights) are stored once; the other places refer to the same entry. What JSON cannot
say directly is a one-entry object: {"$tensor": name}, {"$tuple": [...]}, {"$items": [[key, value], ...]} for keys that
are not texts, {"$float": "inf"}, {"$array": name} for NumPy arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lehr.base.errors import CheckpointError

__all__ = ["decode", "encode"]


def encode(state: Any, part: str) -> tuple[Any, dict[str, Tensor]]:
    """Return ``state`` as JSON and the tensors that it refers to; ``part`` names it in errors.

    >>> plain, tensors = encode({"w": torch.ones(2), "betas": (0.9, 0.99)}, "demo")
    >>> plain
    {'w': {'$tensor': 'w'}, 'betas': {'$tuple': [0.9, 0.99]}}
    >>> list(tensors)
    ['w']
    """
    tensors: dict[str, Tensor] = {}
    stored: dict[tuple[Any, ...], str] = {}
    memory: set[int] = set()

    def put(tensor: Tensor, path: str) -> str:
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError(
                f"{part}: {path!r} is a {tensor.layout} tensor, which cannot be stored; return a dense one"
            )
        tensor = tensor.detach()
        same = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and same in stored:
            return stored[same]
        while path in tensors or path == "__metadata__":  # {"a/b": 1, "a": {"b": 2}}; the other is safetensors' own
            path += "'"
        stored[same] = path
        overlapping = tensor.numel() > 0 and tensor.untyped_storage().data_ptr() in memory
        memory.add(tensor.untyped_storage().data_ptr())
        tensors[path] = tensor.clone(memory_format=torch.contiguous_format) if overlapping else tensor.contiguous()
        return path

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            return {"$tensor": put(value, path)}
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                raise CheckpointError(f"{part}: {path!r} is an array of objects; return numbers")
            return {"$array": put(torch.from_numpy(value.copy()), path)}
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"$float": repr(value)}
        if isinstance(value, Mapping):
            if all(isinstance(key, str) and not key.startswith("$") for key in value):
                return {key: walk(item, f"{path}/{key}".lstrip("/")) for key, item in value.items()}
            items = [[walk(k, f"{path}/{i}/key"), walk(v, f"{path}/{i}")] for i, (k, v) in enumerate(value.items())]
            return {"$items": items}
        if isinstance(value, list | tuple):
            items = [walk(item, f"{path}/{place}".lstrip("/")) for place, item in enumerate(value)]
            return items if isinstance(value, list) else {"$tuple": items}
        raise CheckpointError(
            f"{part}: {path or 'the state'!r} is a {type(value).__module__}.{type(value).__qualname__}, which "
            "cannot be stored without pickle; let state_dict return tensors, arrays, numbers, texts, lists and dicts"
        )

    return walk(state, ""), tensors


def decode(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return what `encode` was given.

    Every tensor is a copy of its own: those that safetensors maps from a file are not aligned as torch's own are, and
    vectorized kernels give other last bits on them.

    >>> decode(*encode({"w": torch.ones(2), 3: math.inf}, "demo"))
    {'w': tensor([1., 1.]), 3: inf}
    """
    if isinstance(plain, list):
        return [decode(item, tensors) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if len(plain) == 1:
        tag, value = next(iter(plain.items()))
        if tag == "$tensor":
            return tensors[value].clone()
        if tag == "$array":
            return tensors[value].clone().numpy()
        if tag == "$tuple":
            return tuple(decode(item, tensors) for item in value)
        if tag == "$items":
            return {decode(key, tensors): decode(item, tensors) for key, item in value}
        if tag == "$float":
            return float(value)
    return {key: decode(item, tensors) for key, item in plain.items()}
