"""A user's DataLoader brings its own batch size, and whatever asks for one asks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import points, recipe
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import lehr
from lehr.base.errors import SettingError


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(zip(*points(), strict=True))


def trainer(run: Path, data: Any, batch_size: int, accumulate: int) -> lehr.Trainer:
    given = lehr.Data(train=DataLoader(data, batch_size=batch_size), replay=isinstance(data, Stream))
    return lehr.Trainer(recipe(data=given, accumulate=accumulate), run_dir=run)


@pytest.mark.parametrize("data", [TensorDataset(*points()), Stream()], ids=["samples", "stream"])
def test_accumulation_is_compared_with_its_batches(tmp_path: Path, data: Any) -> None:
    update = trainer(tmp_path / "run", data, batch_size=40, accumulate=36).loop.update
    assert update.reference == 40
    with pytest.raises(SettingError, match=r"accumulate=16 cuts a batch of 4 samples .*; use 1 to 4"):
        trainer(tmp_path / "run", data, batch_size=4, accumulate=16)
