"""State to files and back: the same values and types, ties kept once, and nothing that would need pickle."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from lehr.base.errors import CheckpointError
from lehr.checkpoint.encode import decode, encode

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.builds(lambda n: torch.arange(n), st.integers(0, 5)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.dictionaries(st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return type(other) is dict and one.keys() == other.keys() and all(equal(v, other[k]) for k, v in one.items())
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


@given(st.dictionaries(st.text(), values, max_size=5))
def test_any_state_survives_the_files(state: dict[str, Any]) -> None:
    plain, tensors = encode(state, "part")
    stored = safetensors.torch.load(safetensors.torch.save(tensors)) if tensors else {}
    assert equal(state, decode(json.loads(json.dumps(plain, allow_nan=False)), stored))


def test_numbers_that_json_lacks() -> None:
    state = {"best": math.inf, "worst": -math.inf, "lost": math.nan, "np": np.float32(0.5), "array": np.arange(3)}
    found = decode(*encode(state, "part"))
    assert found["best"] == math.inf and found["worst"] == -math.inf and math.isnan(found["lost"])
    assert found["np"] == 0.5
    assert isinstance(found["array"], np.ndarray) and found["array"].tolist() == [0, 1, 2]


def test_every_dtype() -> None:
    kinds = [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int8,
        torch.uint8,
        torch.bool,
    ]
    state = {str(kind): torch.ones(3).to(kind) for kind in kinds} | {
        "scalar": torch.tensor(2.5),
        "none": torch.empty(0, 3),
    }
    plain, tensors = encode(state, "part")
    assert equal(state, decode(plain, safetensors.torch.load(safetensors.torch.save(tensors))))


def test_tied_tensors_are_stored_once_and_overlapping_ones_apart() -> None:
    base = torch.arange(6.0)
    state = {"a": base, "b": base, "row": base[2:4], "turned": base.reshape(2, 3).T}
    plain, tensors = encode(state, "part")
    assert plain["b"] == {"$tensor": "a"}
    assert set(tensors) == {"a", "row", "turned"}
    stored = safetensors.torch.load(safetensors.torch.save({k: t.contiguous() for k, t in tensors.items()}))
    found = decode(plain, stored)
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_loaded_tensors_have_memory_of_their_own_that_is_aligned() -> None:
    tensors = {f"t{i}": torch.randn(7) for i in range(9)}
    stored = safetensors.torch.load(safetensors.torch.save(tensors))
    assert any(t.data_ptr() % 64 for t in stored.values())  # the trap
    found = decode({name: {"$tensor": name} for name in tensors}, stored)
    assert all(t.data_ptr() % 64 == 0 for t in found.values())


def test_what_would_need_pickle_is_refused_and_named() -> None:
    class Odd:
        pass

    with pytest.raises(CheckpointError, match=r"listeners: 'a/1/b' is a .*Odd, which cannot be stored without pickle"):
        encode({"a": [0, {"b": Odd()}]}, "listeners")
    with pytest.raises(CheckpointError, match="sparse"):
        encode({"s": torch.eye(2).to_sparse()}, "part")
    with pytest.raises(CheckpointError, match="array of objects"):
        encode({"s": np.array([Odd()])}, "part")


def test_nothing_in_the_package_can_unpickle() -> None:
    from pathlib import Path

    import lehr

    for file in Path(lehr.__file__).parent.rglob("*.py"):
        text = file.read_text()
        assert "pickle" not in re.sub(r"(?i)never pickle|without pickle", "", text), file
        assert not re.search(r"(?<!safetensors\.)torch\.(load|save)\(", text), file


def test_names_that_would_be_one_path_stay_apart(tmp_path: Path) -> None:
    state = {"a/b": torch.ones(1), "a": {"b": torch.zeros(2)}, "a/b'": torch.ones(3), "__metadata__": torch.ones(4)}
    plain, tensors = encode(state, "part")
    safetensors.torch.save_file(tensors, tmp_path / "part.safetensors")
    loaded = decode(plain, safetensors.torch.load_file(tmp_path / "part.safetensors"))
    assert [tuple(t.shape) for t in (loaded["a/b"], loaded["a"]["b"], loaded["a/b'"], loaded["__metadata__"])] == [
        (1,),
        (2,),
        (3,),
        (4,),
    ]
