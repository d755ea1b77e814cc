"""`lehr`: the verbs, the exit codes, and how errors and warnings are said."""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from typing import TextIO

import typer

from lehr.base.errors import BAD_USAGE, FAILED, LehrError, LehrWarning, RecipeFileError
from lehr.cli.eval import eval_
from lehr.cli.list import list_
from lehr.cli.report import report
from lehr.cli.resume import resume
from lehr.cli.sample import sample
from lehr.cli.train import train

__all__ = ["app", "main"]

app = typer.Typer(
    name="lehr",
    help="Train PyTorch models: fast, without losing work, and with evidence.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train)
app.command("resume")(resume)
app.command("eval")(eval_)
app.command("sample")(sample)
app.command("report")(report)
app.command("list")(list_)


@app.callback(invoke_without_command=True)
def _options(
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True),
) -> None:
    if version:
        from lehr import __version__

        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run a verb; ends the process with 0, 2 (usage or settings), 3 (the run failed) or 75 (preempted, resume it)."""
    warnings.showwarning = _say_warning
    warnings.simplefilter("always", LehrWarning)
    try:
        code = app(standalone_mode=False)
    except LehrError as error:
        if isinstance(error, RecipeFileError) and error.__cause__ is not None:
            traceback.print_exception(error.__cause__, file=sys.stderr)
        _fail(str(error), error.exit_code, getattr(error, "__notes__", []))
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except typer.Abort:
        sys.exit(130)
    except Exception as error:
        if hasattr(error, "format_message"):  # usage errors of the argument parser
            _fail(f"{error.format_message()} (see `lehr --help`)", BAD_USAGE)
        traceback.print_exc(file=sys.stderr)
        _fail(f"{type(error).__name__}: {error}", FAILED)
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int, notes: list[str] | None = None) -> None:
    """Say what went wrong on standard error; as JSON on standard output too where that was asked for."""
    print(f"error: {message}", file=sys.stderr)
    for note in notes or []:
        print(f"       {note}", file=sys.stderr)
    if "--json" in sys.argv[1:]:
        print(json.dumps({"error": message, "exit_code": code}))
    sys.exit(code)


def _say_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    where = "" if issubclass(category, LehrWarning) else f" ({category.__name__}, {filename}:{lineno})"
    print(f"warning: {message}{where}", file=sys.stderr, flush=True)
