"""`lehr list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lehr.cli.output import JsonOption, print_json

if TYPE_CHECKING:
    from lehr.base.tables import Table

__all__ = ["list_"]


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(help="recipes, optimizers, schedules, methods, metrics, losses or levers; all if not given."),
    ] = None,
    help_me_choose: Annotated[
        bool, typer.Option("--help-me-choose", help="Say when to choose which, in place of what each is.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """List what can be chosen by name."""
    from lehr.base.errors import SettingError
    from lehr.cli.choices import choice
    from lehr.cli.tables import tables

    known = tables()
    chosen = [kind] if kind is not None else list(known)
    for name in chosen:
        choice("lehr list", name, tuple(known))
    if help_me_choose:
        guided = [name for name, table in known.items() if any(row.choose for row in table.values())]
        if kind is not None and kind not in guided:
            raise SettingError(f"lehr list {kind} has no --help-me-choose; there is one for: {', '.join(guided)}")
        chosen = [name for name in chosen if name in guided]
    if json:
        texts = {name: _choices(known[name]) if help_me_choose else _summaries(known[name]) for name in chosen}
        print_json(texts)
        return
    for name in chosen:
        print(f"{name}:")
        if help_me_choose:
            for row_name, text in _choices(known[name]).items():
                print(f"  If you {text} -> {row_name}")
            continue
        width = max(map(len, known[name]))
        for row in known[name].values():
            needs = f" (needs lehr[{row.needs}])" if row.needs else ""
            print(f"  {row.name:{width}}  {row.summary}{needs}")


def _summaries(table: Table) -> dict[str, str]:
    return {row.name: row.summary for row in table.values()}


def _choices(table: Table) -> dict[str, str]:
    return {row.name: row.choose for row in table.values() if row.choose}
