"""Folders import only from floors below their own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "lehr"

MAY_IMPORT = {
    "base": "",
    "schedules": "base",
    "losses": "base",
    "metrics": "base",
    "layers": "base",
    "lowrank": "base",
    "augment": "base",
    "averaging": "base",
    "data": "base",
    "dist": "base",
    "track": "base",
    "levers": "base",
    "models": "base layers",
    "optim": "base dist lowrank",
    "checkpoint": "base dist",
    "reporting": "base track",
    "transfer": "base optim",
    "training": "base schedules losses lowrank augment averaging metrics dist levers optim transfer",
    "run": "base schedules losses lowrank augment averaging metrics layers models "
    "data dist track levers optim transfer checkpoint reporting training",
    "recipes": "base schedules losses lowrank augment averaging metrics layers models "
    "data dist track levers optim transfer checkpoint reporting training run",
    "measurement": "base losses data levers optim training run",
    "cli": "base schedules losses metrics dist track levers optim reporting training run recipes measurement",
}
"""The table of docs/map.md."""


def imported(file: Path) -> set[tuple[str, int]]:
    """Return the lehr folders that a file imports, in functions too, with their lines."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute"
            names = [node.module or ""]
            if node.module == "lehr":
                names = [f"lehr.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "lehr" and len(parts) > 1:
                found.add((parts[1], node.lineno))
    return found


FILES = sorted(p for p in SOURCE.rglob("*.py") if p.parent != SOURCE)


@pytest.mark.parametrize("file", FILES, ids=[str(p.relative_to(SOURCE)) for p in FILES])
def test_folder_imports_only_from_below(file: Path) -> None:
    folder = file.relative_to(SOURCE).parts[0]
    allowed = {folder, *MAY_IMPORT[folder].split()}
    wrong = {
        (name, line)
        for name, line in imported(file)
        if name not in allowed and not (folder == "cli" and name == "__version__")
    }
    assert not wrong, f"{folder} may import {sorted(allowed)}, but {file.name} imports {sorted(wrong)}"


def test_table_names_every_folder_and_has_no_circle() -> None:
    folders = {p.name for p in SOURCE.iterdir() if p.is_dir() and p.name not in {"__pycache__", "cards"}}
    assert folders == set(MAY_IMPORT)
    seen: set[str] = set()
    for folder, below in MAY_IMPORT.items():  # the table is written from the lowest floor up
        assert set(below.split()) <= seen, f"{folder} imports from a floor that is not below it"
        seen.add(folder)


def test_map_document_holds_the_same_table() -> None:
    text = (SOURCE.parents[1] / "docs" / "map.md").read_text()
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[1].startswith("`") and cells[1].endswith("/`"):
            rows[cells[1].strip("`/")] = cells[3].replace("–", "")
    assert rows == MAY_IMPORT


BLOCKED = ["torchvision", "wandb", "optuna", "transformers", "sklearn", "babel", "PIL", "tensorboard", "mlflow"]


@pytest.mark.parametrize(
    "module", ["lehr.optim", "lehr.schedules", "lehr.losses", "lehr.metrics", "lehr.training.loop", "lehr.run.trainer"]
)
def test_import_needs_no_optional_package(module: str) -> None:
    code = (
        "import sys\n"
        f"for name in {BLOCKED!r}: sys.modules[name] = None\n"
        f"import {module}\n"
        "import signal; assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_low_floors_need_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import lehr, lehr.schedules, lehr.base.settings, lehr.cli.main"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_functions_survive_imports_of_modules_and_a_second_call() -> None:
    import lehr
    import lehr.run.resume
    import lehr.run.trainer
    import lehr.training.loop  # must not replace lehr.train

    for name in lehr.__all__:
        first = getattr(lehr, name)
        assert getattr(lehr, name) is first
        if name not in lehr._FOLDERS:
            assert callable(first)
            assert not isinstance(first, type(lehr)), f"lehr.{name} is a module"
    folders = {p.name for p in SOURCE.iterdir() if p.is_dir()}
    functions = {n for n in lehr.__all__ if n in {"train", "resume"}}
    assert not functions & folders
