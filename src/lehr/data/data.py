"""`Data`: what a recipe trains and validates on, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from lehr.base.errors import SettingError
from lehr.base.settings import Settings
from lehr.data.content import content_facts

__all__ = ["Data", "Splits"]


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Opened data: training and validation samples, and the facts that models and later commands need.

    ``facts`` is plain JSON and is stored with the run: vocabulary sizes, the hash of the content, and so on.
    """

    train: Any
    val: Any = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Data(Settings):
    """Training and validation data: tensors, map-style data sets, iterables or DataLoaders.

    >>> import torch
    >>> Data(train=(torch.zeros(4, 2), torch.zeros(4)), batch_size=2).open().val is None
    True
    """

    train: Any = None
    """The training data."""
    val: Any = None
    """The validation data, of any of the same kinds; None for no validation."""
    batch_size: int = Field(default=32, ge=1)
    """Samples per update, over all microbatches and processes. A DataLoader brings its own."""
    val_batch_size: int | None = Field(default=None, ge=1)
    """Samples per batch of an evaluation; as `batch_size` if not given."""
    shuffle: bool = True
    """Whether to shuffle anew in each epoch. A DataLoader's sampler decides for itself."""
    drop_last: bool = False
    """Whether to leave out an epoch's last batch when it is smaller than the others."""
    bucket: bool = False
    """Whether batches are made of samples of similar length, for data that knows them: less padding."""
    resident: bool = False
    """Whether data in memory is put on the accelerator, whole, and indexed there."""
    copy_ahead: bool = False
    """Whether the next batch is copied to the accelerator on a stream of its own, while the step of this one runs."""
    workers: int = Field(default=0, ge=0)
    """Processes that read ahead, for data that is read sample by sample. A DataLoader brings its own."""
    collate: Callable[[list[Any]], Any] | None = None
    """Makes a batch of a list of samples; torch's `default_collate` if not given."""
    replay: bool = False
    """Whether resuming may read an iterable without state from its beginning again."""

    def open(self) -> Splits:
        """Return the data. Subclasses read files here; before this, nothing of the data is touched."""
        if self.train is None:
            raise SettingError("Data needs train=: tensors, a data set, an iterable or a DataLoader")
        return Splits(train=self.train, val=self.val, facts=content_facts(train=self.train, val=self.val))
