"""The README does what it says: its Python runs, its commands end with 0, and what it shows printed is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from blocks import ROOT, Block, Session, run_page, shape

README = ROOT / "README.md"


def test_every_block_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_page(README, tmp_path, monkeypatch) >= 10


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README.read_text())
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).is_file()] == []


def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    return Session(README, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("python", "import lehr\nlehr.no_such_name\n"),
        ("python", "import lehr\nlehr.Recipe(step=3)\n"),
        ("sh", "lehr train digits --set epoch=3\n"),
        ("sh", "lehr frobnicate\n"),
        ("sh", "make no-such-target\n"),
        ("console", "$ lehr list metrics\nmetrics:\n  no_such_metric   exp of the mean cross entropy\n"),
        ("console", "$ lehr list metrix\n$ echo $?\n3\n"),
    ],
)
def test_a_wrong_block_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str, text: str) -> None:
    with pytest.raises((AssertionError, AttributeError, ValueError)):
        session(tmp_path, monkeypatch).run(Block(language, "", text, 1))


def test_shapes_differ_in_words_and_agree_in_numbers() -> None:
    short, long = "step 1/6  loss 4.0  9 tokens/s", "step 10/850  loss 1.1e-05  val loss 2.0  12.5k tokens/s  0:09 left"
    assert shape(short) == shape(long)
    assert shape(short) != shape("step 1/6  cost 4.0  9 tokens/s")
