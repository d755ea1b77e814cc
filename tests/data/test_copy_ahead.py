"""Copying ahead: the same batches, positions of what was handed out, errors at their step, exact resumes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import points

from lehr.base.batches import tensors_of
from lehr.base.errors import DataError, SettingError
from lehr.data import Data, training_loader
from lehr.data.copy_ahead import CopyAhead

CPU = torch.device("cpu")


class Squares:
    """Read sample by sample; one of them cannot be read."""

    def __init__(self, broken: int | None = None) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        if index == self.broken:
            raise ValueError("broken")
        return torch.tensor(index**2)


@pytest.mark.parametrize("given", [points(), Squares()])
def test_batches_ids_epochs_and_positions_are_those_of_the_loader(given: Any) -> None:
    plain = training_loader(given, Data(batch_size=4), seed=0)
    ahead = CopyAhead(training_loader(given, Data(batch_size=4), seed=0), CPU)
    assert ahead.seekable == plain.seekable and ahead.steps_per_epoch == plain.steps_per_epoch
    for _ in range(30):
        assert ahead.epoch == plain.epoch and ahead.state_dict() == plain.state_dict()
        one, other = next(plain), next(ahead)
        assert all(map(torch.equal, tensors_of(one), tensors_of(other))) and ahead.ids == plain.ids


def test_it_goes_on_where_it_was() -> None:
    ahead = CopyAhead(training_loader(Squares(), Data(batch_size=4), seed=0), CPU)
    for _ in range(4):
        next(ahead)
    position, expected = ahead.state_dict(), [next(ahead) for _ in range(3)]
    for loader in (ahead, CopyAhead(training_loader(Squares(), Data(batch_size=4), seed=0), CPU)):
        loader.load_state_dict(position)
        assert loader.state_dict() == position
        assert all(torch.equal(next(loader), batch) for batch in expected)
    ahead.close()


def test_an_error_is_raised_at_its_own_step() -> None:
    ahead = CopyAhead(training_loader(Squares(broken=9), Data(batch_size=4, shuffle=False), seed=0), CPU)
    assert next(ahead).tolist() == [0, 1, 4, 9]
    assert next(ahead).tolist() == [16, 25, 36, 49]
    position = ahead.state_dict()
    with pytest.raises(DataError, match="sample 9"):
        next(ahead)
    assert ahead.state_dict() == position


def test_it_is_refused_where_nothing_is_copied() -> None:
    with pytest.raises(SettingError, match=r"data\.copy_ahead has no effect"):
        training_loader(points(), Data(batch_size=4, copy_ahead=True), seed=0, device=CPU)
    meta = training_loader(points(), Data(batch_size=4, copy_ahead=True), seed=0, device=torch.device("meta"))
    assert isinstance(meta, CopyAhead) and next(meta)[0].device.type == "meta"
