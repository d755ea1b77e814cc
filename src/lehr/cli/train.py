"""`lehr train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lehr.cli.output import JsonOption, SetOption, print_json, print_result

__all__ = ["train"]


def train(
    recipe: Annotated[str, typer.Argument(help="A built-in name (see `lehr list`), FILE.py or FILE.py:FUNCTION.")],
    set_: SetOption = [],  # noqa: B006 - read only
    run: Annotated[
        Path | None, typer.Option("--run", help="The run folder; a new one below runs/ if not given.")
    ] = None,
    recipe_patch: Annotated[
        Path | None,
        typer.Option("--recipe-patch", help="Settings that `lehr speed` has written; --set comes after them."),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Write a trace of some steps, and show the operators that cost most.")
    ] = False,
    json: JsonOption = False,
) -> int:
    """Train a recipe in a new run folder."""
    from lehr.cli.names import recipe_place
    from lehr.cli.session import finished, progress
    from lehr.run.patch import read_patch
    from lehr.run.trainer import train as train_

    overrides = [*(read_patch(recipe_patch) if recipe_patch else ()), *set_]
    result = train_(
        recipe_place(recipe), run_dir=run, overrides=overrides, trackers=[progress], yardsticks=True, profile=profile
    )
    extra, code = finished(result)
    written = Path(result.run or "") / "profile"
    if json:
        print_json(result.plain() | extra | ({"profile": str(written)} if profile else {}))
        return code
    print_result(result, extra)
    if profile and (written / "operators.txt").is_file():
        print(
            f"\n{(written / 'operators.txt').read_text()}trace:  {written}/trace.json.gz (open it at ui.perfetto.dev)"
        )
    return code
