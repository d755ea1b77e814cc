"""What the user gives is recognized: arrays and tensors, alone, as columns or by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lehr.base.errors import DataError
from lehr.data.data import Data
from lehr.data.opening import training_loader
from lehr.data.validation import validation_batches

X, Y = np.arange(12, dtype=np.float32).reshape(6, 2), np.arange(6)


@pytest.mark.parametrize(
    "given",
    [
        (X, Y),
        (torch.from_numpy(X), Y),
        {"x": X, "y": Y},
        torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
    ],
)
def test_columns_of_any_kind_are_six_samples(given: Any) -> None:
    loader = training_loader(given, Data(batch_size=4), seed=0)
    assert loader.steps_per_epoch == 2
    batch = next(loader)
    first = batch["x"] if isinstance(batch, dict) else batch[0]
    assert first.shape == (4, 2)


def test_a_single_array_is_its_rows() -> None:
    assert next(training_loader(X, Data(batch_size=4), seed=0)).shape == (4, 2)


def test_a_list_of_tensors_could_be_either_and_is_refused() -> None:
    with pytest.raises(DataError, match="could be samples or columns"):
        training_loader([torch.zeros(3), torch.zeros(3)], Data(batch_size=2), seed=0)


def test_a_data_set_with_a_method_named_take_is_read_sample_by_sample() -> None:
    """Data sets of Hugging Face have one, which means something else."""

    class Taking(torch.utils.data.Dataset[int]):
        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: int) -> int:
            return index

        def take(self, n: int) -> list[int]:
            return list(range(n))

    loader = training_loader(Taking(), Data(batch_size=3, shuffle=False), seed=0)
    assert next(loader).tolist() == [0, 1, 2]
    batches = validation_batches(Taking(), Data(batch_size=6), seed=0)
    assert [batch.tolist() for batch in batches(None)] == [list(range(6))]
