"""`lehr list`."""

from __future__ import annotations

from typing import Annotated

import typer

from lehr.cli.output import JsonOption, print_json

__all__ = ["list_"]


def list_(
    kind: Annotated[
        str | None, typer.Argument(help="recipes, optimizers, schedules, metrics or losses; all if not given.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List what can be chosen by name."""
    from lehr.cli.choices import choice
    from lehr.cli.tables import tables

    known = tables()
    chosen = [kind] if kind is not None else list(known)
    for name in chosen:
        choice("lehr list", name, tuple(known))
    if json:
        print_json({name: {row.name: row.summary for row in known[name].values()} for name in chosen})
        return
    for name in chosen:
        print(f"{name}:")
        for row in known[name].values():
            needs = f" (needs lehr[{row.needs}])" if row.needs else ""
            print(f"  {row.name:16} {row.summary}{needs}")
