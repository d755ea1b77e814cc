"""`lehr report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lehr.cli.output import JsonOption, print_json

__all__ = ["report"]


def report(
    runs: Annotated[list[Path], typer.Argument(help="One run folder, or several to lay over one another.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="The file to write; in the first run folder if not given.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write the report of a run, or of several laid over one another."""
    from lehr.reporting.report import write_report

    name = "report.html" if len(runs) == 1 else "report-" + "-".join(run.name for run in runs[1:]) + ".html"
    target = write_report(runs, to or runs[0] / name)
    if json:
        print_json({"report": str(target), "runs": [str(run) for run in runs]})
    else:
        print(f"report: {target}")
