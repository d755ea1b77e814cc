"""The documentation cannot go stale: its code runs, and its tables of settings are those of the code."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blocks import ROOT, blocks, run_page

import lehr
from lehr.base.durations import Duration
from lehr.base.settings import Settings
from lehr.cli.main import app
from lehr.cli.tables import tables
from lehr.run.result import RunResult
from lehr.training.events import Event

DOCS = ROOT / "docs"
PAGES = [p for p in [ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))] if blocks(p)]
SETTINGS_PAGES = (DOCS / "recipes.md", DOCS / "data.md", DOCS / "methods.md")
ROW = re.compile(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|$")


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_every_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page(page, tmp_path, monkeypatch)


def documented() -> dict[str, dict[str, str]]:
    """Return {class: {field: default}} of the tables whose rows follow a heading with the name of a class."""
    found: dict[str, dict[str, str]] = {}
    for page in SETTINGS_PAGES:
        heading = ""
        for line in page.read_text().splitlines():
            if line.startswith("#"):
                heading = line.lstrip("# ")
            elif (row := ROW.match(line)) and heading in settings():
                found.setdefault(heading, {})[row[1]] = row[2].strip("` ")
    return found


def settings() -> dict[str, type[Settings]]:
    """Return every group of settings in lehr by its name."""
    for module in pkgutil.walk_packages(lehr.__path__, "lehr."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def below(kind: type[Settings]) -> Iterator[type[Settings]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    return {
        kind.__name__: kind
        for kind in below(Settings)
        if kind.__module__.startswith("lehr.") and not kind.__name__.startswith("_")
    }


def shown(value: Any) -> str:
    """Return a default as the pages write it."""
    if isinstance(value, Settings):
        given = {name: getattr(value, name) for name in type(value).model_fields}
        changed = {n: v for n, v in given.items() if v != type(value).model_fields[n].default}
        return f"{type(value).__name__}({', '.join(f'{n}={v!r}' for n, v in changed.items())})"
    if isinstance(value, Duration):
        return f'"{value}"'
    if isinstance(value, tuple) and any(isinstance(v, Duration) for v in value):
        return f"({', '.join(shown(v) for v in value)})"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def own_fields(kind: type[Settings]) -> dict[str, str]:
    """Return {field: default} of what a class adds to its base."""
    fields = {n: f for n, f in kind.model_fields.items() if n in kind.__annotations__}
    return {
        n: "required" if f.is_required() else shown(f.get_default(call_default_factory=True)) for n, f in fields.items()
    }


@pytest.mark.parametrize("name", sorted(settings()))
def test_table_of_settings_is_the_code(name: str) -> None:
    assert documented().get(name, {}) == own_fields(settings()[name])


def test_table_of_built_in_recipes_is_the_code() -> None:
    text = (DOCS / "recipes.md").read_text().partition("## Built-in recipes")[2].partition("###")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE) == list(tables()["recipes"])


def test_table_of_events_is_the_code() -> None:
    text = (DOCS / "methods.md").read_text().partition("## Events")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == [event.value for event in Event]


def test_table_of_commands_is_the_code() -> None:
    text = (DOCS / "index.md").read_text()
    assert re.findall(r"^\| `lehr (\w+)", text, re.MULTILINE) == [command.name for command in app.registered_commands]


def test_keys_of_a_result_are_the_code() -> None:
    text = (DOCS / "index.md").read_text().partition("return a result with")[2].partition("; `--json`")[0]
    assert re.findall(r"`(\w+)`", text) == list(RunResult.__dataclass_fields__)


def test_public_names_are_documented() -> None:
    text = (DOCS / "index.md").read_text().partition("## From Python")[2]
    assert set(re.findall(r"`lehr\.(\w+)`", text)) == set(lehr.__all__)


def test_every_dependency_has_its_reason_and_its_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *(p for extra in project["optional-dependencies"].values() for p in extra)]
    wanted = [re.match(r"[\w-]+", requirement)[0] for requirement in listed]  # type: ignore[index]
    rows = re.findall(r"^\| ([\w-]+) \| [^|]+ \| ([^|]+) \|$", (DOCS / "dependencies.md").read_text(), re.MULTILINE)
    assert [name for name, _ in rows if name != "package"] == wanted
    imported = {"scikit-learn": "sklearn", "Pillow": "PIL", "mkdocs-material": "material"}
    for name, places in rows[1:]:
        for place in re.findall(r"`([\w/]+\.\w+|Makefile)`", places):
            file = ROOT / place if (ROOT / place).exists() else ROOT / "src" / "lehr" / place
            word = imported.get(name, name).lower()
            assert name == "package" or word in file.read_text().lower(), f"{place} does not use {name}"


LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_links_stay_within_the_site_and_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        target = (page.parent / link).resolve()
        assert target.is_file() and target.is_relative_to(DOCS), f"{page.name} links to {link}"


QUOTED = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)


def test_quoted_messages_are_in_the_code() -> None:
    source = " ".join(inspect.cleandoc(p.read_text()) for p in sorted((ROOT / "src" / "lehr").rglob("*.py")))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # texts that are cut into several literals
    for message in QUOTED.findall((DOCS / "troubleshooting.md").read_text()):
        for part in re.split(r"\.\.\.|\d+|RUN|'[^']*'|torch\.bfloat16|\(|\)", message):
            words = part.strip(" ;,?")
            assert not words or words in source, f"{message!r}: no text {words!r} in the code"
