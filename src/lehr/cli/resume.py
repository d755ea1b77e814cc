"""`lehr resume`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lehr.cli.output import JsonOption, SetOption, print_json, print_result

__all__ = ["resume"]


def resume(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    set_: SetOption = [],  # noqa: B006 - read only
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Go on although code, settings or data have changed.")
    ] = False,
    json: JsonOption = False,
) -> int:
    """Go on with a run where its newest intact checkpoint ends; a run that has ended is left as it is."""
    from lehr.cli.session import ended, finished, progress
    from lehr.run.resume import resume as resume_

    result = (None if set_ else ended(run)) or resume_(
        run, overrides=set_, allow_changes=allow_changes, trackers=[progress], yardsticks=True
    )
    extra, code = finished(result)
    if json:
        print_json(result.plain() | extra)
    else:
        print_result(result, extra)
    return code
