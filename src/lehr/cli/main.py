"""`lehr`: the verbs, the exit codes, and how errors and warnings are said."""

from __future__ import annotations

import contextlib
import sys
import warnings
from typing import TextIO

import typer

from lehr.base.errors import BAD_USAGE, LehrError, LehrWarning
from lehr.cli.ablate import ablate
from lehr.cli.eval import eval_
from lehr.cli.list import list_
from lehr.cli.measure import measure
from lehr.cli.report import report
from lehr.cli.resume import resume
from lehr.cli.sample import sample
from lehr.cli.schedule import schedule
from lehr.cli.speed import speed
from lehr.cli.train import train

__all__ = ["app", "main"]

ABORTED = 130
"""Exit code: Ctrl-C outside a run, as shells count it."""


class Interrupted(LehrError):
    """Ctrl-C where nothing could be saved."""

    exit_code = ABORTED


app = typer.Typer(
    name="lehr",
    help="Train PyTorch models: fast, without losing work, and with evidence.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train)
app.command("resume")(resume)
app.command("eval")(eval_)
app.command("sample")(sample)
app.command("report")(report)
app.command("speed")(speed)
app.command("measure")(measure)
app.command("ablate")(ablate)
app.command("schedule")(schedule)
app.command("list")(list_)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True),
) -> None:
    if version:
        from lehr import __version__

        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        with contextlib.redirect_stdout(sys.stderr):  # the help prints itself
            print(context.get_help())
        raise typer.Exit(BAD_USAGE)


def main() -> None:
    """Run a verb; ends the process with 0, 2 (usage or settings), 3 (the run failed) or 75 (preempted, resume it)."""
    warnings.showwarning = _say_warning
    warnings.simplefilter("always", LehrWarning)
    try:
        code = app(standalone_mode=False)
        if code == ABORTED:
            raise Interrupted("interrupted before there was anything to save")
    except Exception as error:
        from lehr.cli.failure import say

        sys.exit(say(error))
    sys.exit(code if isinstance(code, int) else 0)


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
