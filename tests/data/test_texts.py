"""Texts and other built-in data: split without leaks, every token once, and clear words for what cannot be read."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lehr.base.errors import DataError, SettingError
from lehr.data.data import Data
from lehr.data.digits import DigitsData
from lehr.data.images import ImageFolderData
from lehr.data.pairs import PairData, cldr_names
from lehr.data.sources import IGNORE, HeldOutWindows, TokenWindows
from lehr.data.text import TextData, TokenFileData, standard_library
from lehr.data.tokens import ByteTokens, CharTokens, tokenizer_of


@given(st.integers(1, 60), st.integers(1, 9))
def test_held_out_windows_predict_every_token_once_from_what_comes_before(length: int, context: int) -> None:
    tokens = torch.arange(100, 100 + length, dtype=torch.uint8)
    windows = HeldOutWindows(tokens, context=context, before=7)
    inputs, targets = windows.take_batch(torch.arange(len(windows)), epoch=0, seed=0)
    kept = targets != IGNORE
    assert targets[kept].tolist() == tokens.tolist()
    assert inputs[kept].tolist() == [7, *tokens.tolist()[:-1]]


@given(st.integers(2, 9), st.integers(0, 60), st.integers(0, 5))
def test_training_windows_follow_the_text_without_overlap(context: int, extra: int, epoch: int) -> None:
    tokens = torch.arange(2 * context + extra, dtype=torch.int16)
    windows = TokenWindows(tokens, context=context)
    inputs, targets = windows.take_batch(torch.arange(len(windows)), epoch=epoch, seed=1)
    assert torch.equal(targets, inputs + 1)
    predicted = targets.flatten().tolist()
    assert len(set(predicted)) == len(predicted)
    assert max(predicted) < len(tokens)


def test_training_windows_begin_elsewhere_in_each_epoch() -> None:
    windows = TokenWindows(torch.arange(1000, dtype=torch.int16), context=100)
    starts = {int(windows.take_batch(torch.tensor([0]), epoch=e, seed=0)[0][0, 0]) for e in range(8)}
    assert len(starts) > 4


def test_too_little_text_is_named() -> None:
    with pytest.raises(DataError, match=r"10 tokens, too few for windows of context=8; use a context of at most 5"):
        TokenWindows(torch.arange(10), context=8)


def test_standard_library_is_split_by_packages_that_share_no_file() -> None:
    training, held_out = standard_library()
    total = len(training) + len(held_out)
    assert 5e6 < total < 2e7
    assert 0.02 < len(held_out) / total < 0.12
    root = Path(sysconfig.get_paths()["stdlib"])
    logging = (root / "logging" / "__init__.py").read_bytes()
    assert (logging in training) != (logging in held_out)
    for name in ("idlelib/run.py", "encodings/utf_8.py", "test/support/__init__.py", "pydoc_data/topics.py"):
        if (root / name).exists():
            assert (root / name).read_bytes() not in training + held_out
    packages = [p for p in root.iterdir() if (p / "__init__.py").exists()]
    for package in packages[:20]:
        files = [f.read_bytes() for f in sorted(package.glob("*.py")) if f.stat().st_size > 2000]
        sides = {content in held_out for content in files if content in training or content in held_out}
        assert len(sides) <= 1, f"{package.name} is on both sides"


def test_generated_files_are_left_out(tmp_path: Path) -> None:
    for name, text in (
        ("a.py", "x = 1\n"),
        ("made.py", "# Auto-generated, do not edit\ny = 2\n"),
        ("enum.py", "z = 3\n"),
    ):
        (tmp_path / name).write_text(text)
    training, held_out = standard_library(tmp_path)
    assert (training, held_out) == (b"x = 1\n", b"z = 3\n")  # the name enum is one of those that are held out


def test_text_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("the cat sat on the mat.\n" * 50)
    splits = TextData(path=file, context=16).open()
    assert splits.facts["vocab_size"] == 256
    assert splits.facts["train_tokens"] == 1080
    assert splits.facts["val_tokens"] == 120
    characters = TextData(path=file, context=16, tokens="char").open()
    assert characters.facts["vocab_size"] == len(set(file.read_text()))
    x, _ = characters.train.take_batch(torch.tensor([0]), epoch=0, seed=0)
    assert "cat" in tokenizer_of(characters.facts).decode(x[0]) or "mat" in tokenizer_of(characters.facts).decode(x[0])


def test_a_cut_never_falls_inside_a_character(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("é漢🙂" * 101)
    for share in (0.1, 0.11, 0.12, 0.13, 0.14):
        training, held_out = TextData(path=file, val_share=share).texts()
        assert training.decode() + held_out.decode() == file.read_text()


def test_tokenizers_are_made_again_from_their_facts() -> None:
    for tokens in (ByteTokens(), CharTokens("hello world")):
        again = tokenizer_of(json.loads(json.dumps(tokens.facts())))
        assert again.decode(again.encode("hello")) == "hello"
    with pytest.raises(DataError, match=r"has 'z'"):
        CharTokens("abc").encode("az")
    with pytest.raises(SettingError, match="not trained on text"):
        tokenizer_of({})


def test_token_files(tmp_path: Path) -> None:
    tokens = np.array([0, 1, 40000, 50256] * 100, dtype=np.uint16)
    file = tmp_path / "train.bin"
    tokens.tofile(file)
    splits = TokenFileData(path=file, context=8).open()
    x, y = splits.train.take_batch(torch.tensor([0]), epoch=0, seed=0)
    assert x.dtype == torch.long
    assert set(torch.cat([x, y]).flatten().tolist()) == {0, 1, 40000, 50256}
    with pytest.raises(DataError, match=r"has the token 50256, but data.vocab_size=100"):
        TokenFileData(path=file, vocab_size=100, context=8).open()
    (tmp_path / "odd.bin").write_bytes(b"abcde")
    with pytest.raises(DataError, match="5 bytes"):
        TokenFileData(path=tmp_path / "odd.bin").open()


def test_digits() -> None:
    splits = DigitsData().open()
    assert len(splits.train[0]) + len(splits.val[0]) == 1797
    assert splits.train[0].shape[1:] == (1, 8, 8)
    assert splits.train[0].abs().max() <= 1
    seen = {tuple(row.flatten().tolist()) for row in splits.train[0]}
    assert sum(tuple(row.flatten().tolist()) in seen for row in splits.val[0]) == 0


def test_some_of_the_digits() -> None:
    whole, some = DigitsData().open(), DigitsData(digits=(5, 7), examples=20).open()
    assert (len(some.train[0]), some.facts["num_classes"]) == (20, 2)
    fives = DigitsData(digits=(7, 5)).open()
    labels = torch.cat([whole.train[1], whole.val[1]])
    assert int((fives.train[1] == 1).sum() + (fives.val[1] == 1).sum()) == int((labels == 5).sum())
    with pytest.raises(DataError, match="data.examples=5000, but there are 289 training pictures"):
        DigitsData(digits=(5, 7), examples=5000).open()
    for wrong in ((5,), (5, 5), (5, 10)):
        with pytest.raises(SettingError, match="give two or more different digits of 0 to 9"):
            DigitsData(digits=wrong)


def test_names_of_languages_and_territories() -> None:
    pairs = cldr_names()
    assert ("France", "法国") in pairs
    assert len(pairs) > 800
    splits = PairData().open()
    source, fed, target = splits.train.tensors
    assert len(source) == 600
    assert (fed[:, 0] == 1).all()
    assert torch.equal(fed[:, 1:][target[:, :-1] > 2], target[:, :-1][target[:, :-1] > 2])
    assert ((target == 2).sum(dim=1) == 1).all()
    training = {tuple(row) for row in source.tolist()}
    assert (
        sum(tuple(row) in training for row in splits.val.tensors[0].tolist()) <= 2
    )  # two names may share their characters


@pytest.mark.parametrize("ending", ["tsv", "json"])
def test_pairs_from_a_file(tmp_path: Path, ending: str) -> None:
    rows = [(f"word{i}", f"词{i}") for i in range(20)]
    file = tmp_path / f"pairs.{ending}"
    file.write_text(
        "\n".join("\t".join(r) for r in rows) if ending == "tsv" else json.dumps([{"en": a, "zh": b} for a, b in rows])
    )
    splits = PairData(path=file, pairs=15).open()
    assert (len(splits.train), len(splits.val)) == (15, 5)


def test_pictures_in_folders(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for place in range(5):
            pixels = generator.integers(0, 255, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{place}.png")
    splits = ImageFolderData(path=tmp_path, size=16).open()
    assert (len(splits.train), len(splits.val)) == (8, 2)
    picture, label = splits.train[0]
    assert picture.shape == (3, 16, 16)
    assert picture.abs().max() <= 1
    assert label in {0, 1}
    assert {p for p, _ in splits.train.files}.isdisjoint({p for p, _ in splits.val.files})


def bad(tmp_path: Path) -> dict[str, tuple[Data, str]]:
    empty, folder, words, one = tmp_path / "empty.txt", tmp_path / "folder", tmp_path / "words.tsv", tmp_path / "one"
    latin = tmp_path / "latin.txt"
    empty.write_text("")
    folder.mkdir()
    words.write_text("only one column\n")
    (one / "a").mkdir(parents=True)
    latin.write_bytes(b"caf\xe9 " * 200)
    return {
        "missing": (TextData(path=tmp_path / "none.txt"), "does not exist; give the path of a file"),
        "empty": (TextData(path=empty), "is empty"),
        "folder": (TextData(path=folder), "is a folder"),
        "encoding": (TextData(path=latin, tokens="char"), "is not UTF-8"),
        "share": (TextData(val_share=0.2), "no effect on the standard library"),
        "columns": (PairData(path=words), "entry 1 is not a pair"),
        "too many pairs": (PairData(pairs=10**6), r"data.pairs=1000000, but there are \d+ pairs"),
        "no pictures": (ImageFolderData(path=one), "pictures in 0 folders"),
        "no folder": (ImageFolderData(path=empty), "is not a folder"),
        "no path": (ImageFolderData(), "data.path=FOLDER"),
        "no tokens": (TokenFileData(), "data.path=FILE"),
        "nothing": (Data(), "Data needs train="),
    }


@pytest.mark.parametrize(
    "case",
    [
        "missing",
        "empty",
        "folder",
        "encoding",
        "share",
        "columns",
        "too many pairs",
        "no pictures",
        "no folder",
        "no path",
    ]
    + ["no tokens", "nothing"],
)
def test_data_that_cannot_be_read_says_what_to_do(tmp_path: Path, case: str) -> None:
    data, expected = bad(tmp_path)[case]
    with pytest.raises((DataError, SettingError), match=expected):
        data.open()
