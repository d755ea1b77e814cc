"""Pairs are padded to the longest of their batch: the same numbers as with all padding, for less work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import weights

import lehr
from lehr.data.data import Data, Splits
from lehr.data.pairs import PairData
from lehr.data.sources import PaddedSource, TensorSource
from lehr.models.seq2seq import PAD, Seq2SeqSettings
from lehr.recipes.translate import exact_match, recipe
from lehr.run.recipe import Recipe


class FullyPadded(PairData):
    """The same pairs, all as long as the longest of the data."""

    def open(self) -> Splits:
        cut = super().open()
        return Splits(train=TensorSource(cut.train.tensors), val=TensorSource(cut.val.tensors), facts=cut.facts)


def small(data: Data) -> Recipe:
    fields = {name: getattr(recipe(), name) for name in Recipe.model_fields}
    model = Seq2SeqSettings(width=16, depth=1, heads=2, dropout=0.0)
    return Recipe(**fields | {"model": model, "data": data, "epochs": None, "steps": 25, "device": "cpu"})


def test_no_batch_is_wider_than_its_longest_pair() -> None:
    splits = PairData().open()
    for indices in torch.randperm(600, generator=torch.Generator().manual_seed(0)).split(32):
        cut, whole = splits.train.take_batch(indices, epoch=0, seed=0), [t[indices] for t in splits.train.tensors]
        for narrow, wide in zip(cut, whole, strict=True):
            assert (narrow[:, -1] != PAD).any()
            assert torch.equal(narrow, wide[:, : narrow.shape[1]])
            assert not wide[:, narrow.shape[1] :].any()
        assert cut[1].shape == cut[2].shape
    widths = [splits.train.take_batch(i, epoch=0, seed=0)[0].shape[1] for i in torch.arange(600).split(32)]
    assert sum(widths) / len(widths) < 0.7 * splits.facts["source_length"]


def test_training_with_and_without_the_padding_is_the_same_but_for_rounding(tmp_path: Path) -> None:
    cut = lehr.train(small(PairData(batch_size=32)), run_dir=tmp_path / "cut")
    whole = lehr.train(small(FullyPadded(batch_size=32)), run_dir=tmp_path / "whole")
    assert cut.tokens_per_second is not None and cut.step == whole.step
    assert cut.train_loss == pytest.approx(whole.train_loss, rel=1e-4)
    assert cut.val_loss == pytest.approx(whole.val_loss, rel=1e-4)
    assert cut.model is not None and whole.model is not None
    for name, value in weights(cut.model).items():
        torch.testing.assert_close(value, weights(whole.model)[name], rtol=1e-3, atol=1e-4)


def test_a_pair_has_the_same_scores_in_any_batch() -> None:
    splits = PairData().open()
    torch.manual_seed(0)
    model = Seq2SeqSettings(width=32, depth=2, heads=4).build(splits.facts).eval()
    lengths = (splits.train.tensors[0] != PAD).sum(dim=1)
    short, long = int(lengths.argmin()), int(lengths.argmax())
    alone = splits.train.take_batch(torch.tensor([short]), epoch=0, seed=0)
    beside = splits.train.take_batch(torch.tensor([short, long]), epoch=0, seed=0)
    with torch.no_grad():
        width = alone[1].shape[1]
        torch.testing.assert_close(model(*alone[:2])[0], model(*beside[:2])[0, :width], rtol=1e-4, atol=1e-5)


def test_exact_matches_do_not_depend_on_the_padding() -> None:
    splits = PairData().open()
    torch.manual_seed(1)
    model = Seq2SeqSettings(width=32, depth=1, heads=2, dropout=0.0).build(splits.facts)
    chosen = torch.arange(6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    source, fed, target = splits.train.take_batch(chosen, epoch=0, seed=0)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(source, fed).flatten(0, 1), target.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    known = [int(exact_match(model, splits.train.take_batch(i, epoch=0, seed=0))[0]) for i in chosen.split(1)]
    wide = tuple(t[chosen] for t in splits.train.tensors)
    assert exact_match(model, wide) == (sum(known), 6)
    assert exact_match(model, (source, fed, target)) == (sum(known), 6)
    assert sum(known) >= 4, "the model has learned some of the six"


def test_a_file_of_any_size_is_split_and_the_base_case_has_600(tmp_path: Path) -> None:
    (tmp_path / "few.tsv").write_text("".join(f"a{i}\tb{i}\n" for i in range(30)))
    few = PairData(path=tmp_path / "few.tsv").open()
    assert (len(few.train), len(few.val)) == (27, 3)
    assert isinstance(few.train, PaddedSource)
    base = PairData().open()
    assert len(base.train) == 600 and len(base.val) > 200
