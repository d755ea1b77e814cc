"""Limits on size and shape; an exception is a line here, with its reason. Docstrings and comments do not count."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "lehr"
FILES = sorted(SOURCE.rglob("*.py"))
IDS = [str(p.relative_to(SOURCE)) for p in FILES]

FILE, FUNCTION, CLASS, METHODS, ARGUMENTS = 400, 60, 250, 12, 6
TWO_SCREENS = 140

LONG_FUNCTIONS = {"run/assemble.py:assemble": "the order of set-up has to be visible in one place"}
MANY_ARGUMENTS = {
    "cli/eval.py:eval_": "each is an option of the command line",
    "cli/sample.py:sample": "each is an option of the command line",
    "cli/schedule.py:schedule": "the same",
    "cli/measure.py:measure": "the same",
    "cli/ablate.py:ablate": "the same",
    "training/blame.py:find_nonfinite": "it repeats a step, and needs all that made it",
    "training/evaluate.py:evaluate": "a function without state, used by loops of the user's own",
    "run/assemble.py:_validation": "binds what evaluation needs, once",
    "data/mapped.py:__init__": "what a torch DataLoader is made of",
    "data/stream.py:__init__": "what a torch DataLoader is made of",
    "data/indexed.py:__init__": "what a loader is made of",
    "data/validation.py:_mapped_pass": "what a torch DataLoader is made of",
    "training/steps/eager.py:finish_reading": "the values of one step, handed from one half of it to the other",
    "training/steps/eager.py:finish_latched": "the same",
    "run/sample.py:sample_text": "what `lehr sample` takes",
    "schedules/one_cycle.py:one_cycle": "the settings of the published policy",
    "lowrank/factorize.py:factorize": "how, how well and from where are chosen apart",
    "run/resume.py:resume": "the arguments of `train`, and what may have changed",
    "lowrank/linear.py:__init__": "what an nn.Linear is made of, a rank and a generator",
    "lowrank/attention.py:forward": "the signature of nn.MultiheadAttention",
}
BASES = {
    "EagerStep",
    "Settings",
    "ScheduleSettings",
    "Around",
    "Grouped",
    "Selective",
    "Data",
    "Supervised",
    "Observer",
    "Method",
    "LehrError",
    "RunError",
    "LehrWarning",
}
"""Our own classes that others may derive from, one level deep each."""


def code_lines(source: str) -> set[int]:
    """Return the lines that hold code: neither blank, nor comment, nor docstring."""
    tree = ast.parse(source)
    docs: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docs |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = set()
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skip and token.type != tokenize.ENDMARKER:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - docs


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_sizes(file: Path) -> None:
    source = file.read_text()
    lines = code_lines(source)
    place = str(file.relative_to(SOURCE))
    assert len(lines) <= FILE, f"{place} has {len(lines)} lines of code"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = len(lines & set(range(node.lineno, (node.end_lineno or 0) + 1)))
            name = f"{place}:{node.name}"
            assert size <= FUNCTION or name in LONG_FUNCTIONS, f"{name} has {size} lines of code"
            given = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            given = [a for a in given if a not in {"self", "cls"}]
            assert len(given) <= ARGUMENTS or name in MANY_ARGUMENTS, f"{name} takes {len(given)} arguments"
        if isinstance(node, ast.ClassDef):
            size = len(lines & set(range(node.lineno, (node.end_lineno or 0) + 1)))
            assert size <= CLASS, f"{place}:{node.name} has {size} lines of code"
            public = [f for f in node.body if isinstance(f, ast.FunctionDef) and not f.name.startswith("_")]
            assert len(public) <= METHODS, f"{place}:{node.name} has {len(public)} public methods"


def test_loop_fits_on_two_screens() -> None:
    lines = code_lines((SOURCE / "training" / "loop.py").read_text())
    assert len(lines) <= TWO_SCREENS, f"training/loop.py has {len(lines)} lines of code"


def test_inheritance_is_one_level_deep() -> None:
    parents: dict[str, list[str]] = {}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                parents[node.name] = [ast.unparse(base).split("[")[0] for base in node.bases]
    for name, bases in parents.items():
        for base in bases:
            assert base not in parents or base in BASES, f"{name} derives from {base}, which is not made for that"
        assert len([b for b in bases if b in parents]) <= 1, f"{name} mixes {bases}"


def test_every_exception_still_exists() -> None:
    for listed in (*LONG_FUNCTIONS, *MANY_ARGUMENTS):
        path, _, name = listed.partition(":")
        assert f"def {name}(" in (SOURCE / path).read_text(), f"{listed} is gone; remove its line here"


def test_every_public_module_says_what_it_offers() -> None:
    for file in FILES:
        if file.name.startswith("__"):
            continue
        tree = ast.parse(file.read_text())
        names = [t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
        assert "__all__" in names, f"{file.relative_to(SOURCE)} has no __all__"
        assert ast.get_docstring(tree), f"{file.relative_to(SOURCE)} has no docstring"
