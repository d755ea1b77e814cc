"""The fenced blocks of a page, run in the order in which a reader meets them.

`python` blocks run as one script; one with ``title="name.py"`` is also written to that file first. In `sh` blocks each
`lehr` command has to end with 0. In `console` blocks the lines after ``$ command`` are what it prints: each has to come
out the same but for its numbers, and the line after ``$ echo $?`` is the exit code.
"""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
import types
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from commands import Done, lehr
from PIL import Image

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^( *)```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d[\d.,:]*(?:e[+-]?\d+)?[kMG]?")
TINY = "data.context=16 model.width=16 model.depth=1 model.heads=2 steps=6 track.every=1"
SHORTER = {
    "digits": "steps=6 model.width=4 track.every=1 save.every=2",
    "gpt-text": f"{TINY} data.path=my_text.txt data.batch_size=4 evaluate.batches=2 track.every=1",
    "translate": "steps=4 model.width=16 model.heads=2 model.depth=1 data.pairs=40",
    "images": "steps=2 model.width=4",
    "gpt2-124m": f"{TINY} data.path=train.bin data.val_path=val.bin data.vocab_size=300 data.batch_size=4 accumulate=2",
}
"""What makes a built-in recipe short; a page's own settings come before these, and must be understood all the same."""


@dataclass(frozen=True)
class Block:
    """A fenced block, and the line of the page that it begins on."""

    language: str
    title: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        indent, language, title, content = match.groups()
        lines = [line.removeprefix(indent) for line in content.splitlines(keepends=True)]
        found.append(Block(language, title or "", "".join(lines), text.count("\n", 0, match.start(4))))
    assert len(found) * 2 == len(re.findall(r"^ *```", text, re.MULTILINE)), f"{page}: a fence has no end"
    return found


def shape(line: str) -> str:
    """Return a printed line without its numbers, and without what a longer run adds to it."""
    line = re.sub(r"  (val [a-z ]+ \S+|\S+ left)(?=  |$)", "", line)
    return NUMBER.sub("#", " ".join(line.split()))


@dataclass
class Session:
    """A reader who types what a page says into a shell and a Python prompt, in a folder with some data."""

    page: Path
    folder: Path
    patch: pytest.MonkeyPatch
    code: int = 0
    main: types.ModuleType = field(default_factory=lambda: types.ModuleType("__main__"))

    def __post_init__(self) -> None:
        self.patch.chdir(self.folder)
        self.patch.setattr(sys, "path", [str(self.folder), *sys.path])
        self.main.__file__ = str(self.folder / f"{self.page.stem}_script.py")
        self.patch.setitem(sys.modules, "__main__", self.main)
        furnish(self.folder)

    def run(self, block: Block) -> None:
        """Run one block."""
        {"python": self.python, "sh": self.shell, "console": self.console}.get(block.language, lambda _: None)(block)

    def python(self, block: Block) -> None:
        """Run Python code where its lines have the page's numbers."""
        if block.title:
            (self.folder / block.title).write_text(block.text)
        script = Path(str(self.main.__file__))
        script.write_text("\n" * block.line + block.text)
        exec(compile(script.read_text(), str(script), "exec"), self.main.__dict__)

    def command(self, line: str) -> Done:
        """Run a `lehr` command, a shorter one where it would train a built-in recipe."""
        words = shlex.split(line, comments=True)
        assert words[0] == "lehr", f"{self.page.name}: {line!r} is no lehr command"
        changes = SHORTER.get(words[2], "") if words[1] == "train" else ""
        words += [word for change in changes.split() for word in ("--set", change)]
        if words[1] == "measure":  # what is to be measured must not be over at once
            for change in [*SHORTER[words[2]].split(), "steps=100000"]:
                words += ["--set", change]
            words += ["--budget", "25s" if "step=whole" in words else "8s"]
        if words[1] == "speed":
            words += [w for change in [*SHORTER[words[2]].split(), "steps=100000"] for w in ("--set", change)]
            words += ["--budget", "40s", "--lever", "bf16"]
        if words[1] == "ablate":
            words += [w for change in SHORTER[words[2]].split() for w in ("--set", change)]
            words += ["--seeds", "2", "--equal", "steps", "--try", "clip"]
        words += ["--length", "5"] if words[1] == "sample" and "translate" not in line else []
        done = lehr(*words[1:])
        self.code = done.code
        return done

    def shell(self, block: Block) -> None:
        """Run the `lehr` commands of a block; other commands are checked against the files that they need."""
        for line in block.text.replace("\\\n", "").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["lehr"]:
                done = self.command(line)
                assert done.code == 0, f"{self.page.name}: {line}\n{done.err}"
            elif words[:1] == ["make"]:
                declared = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
                assert declared and set(words[1:]) <= set(declared[1].split()), line
            elif words[:3] == ["pip", "install", "-e"]:
                extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
                assert set(words[3].strip(".[]").split(",")) <= {*extras, ""}, line

    def console(self, block: Block) -> None:
        """Run the commands of a block and compare what they print with what the page shows."""
        printed: list[str] = []
        for line in block.text.splitlines():
            if line == "$ echo $?":
                printed = [str(self.code)]
            elif line.startswith("$ "):
                done = self.command(line[2:])
                printed = (done.out + done.err).splitlines()
            elif line.strip() and line != "...":
                known = printed if self.code and line.isdigit() else list(map(shape, printed))
                wanted = line if self.code and line.isdigit() else shape(line)
                assert wanted in known, f"{self.page.name} shows {line!r}; printed was:\n" + "\n".join(printed)


def furnish(folder: Path) -> None:
    """Put the files into a folder that the pages' commands name."""
    (folder / "my_text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    (folder / "pairs.tsv").write_text("".join(f"one {i}\teins {i}\n" for i in range(60)))
    for kind, value in {"cats": 60, "dogs": 180}.items():
        (folder / "pictures" / kind).mkdir(parents=True)
        for number in range(80):
            Image.new("RGB", (8, 8), (value, number, 0)).save(folder / "pictures" / kind / f"{number}.png")
    for name in ("train.bin", "val.bin"):
        (np.arange(2000) % 300).astype(np.uint16).tofile(folder / name)


def run_page(page: Path, folder: Path, patch: pytest.MonkeyPatch) -> int:
    """Run all blocks of a page; returns how many were run."""
    session, known = Session(page, folder, patch), set(sys.modules)
    ran = 0
    try:
        for block in blocks(page):
            assert block.language in {"python", "sh", "console", "text", "toml", "json"}, f"{page.name}:{block.line}"
            session.run(block)
            ran += block.language in {"python", "sh", "console"}
    finally:
        own = [n for n, m in sys.modules.items() if n not in known and str(folder) in str(getattr(m, "__file__", ""))]
        for name in own:
            del sys.modules[name]
    return ran
