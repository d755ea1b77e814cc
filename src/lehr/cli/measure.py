"""`lehr measure`: which of two recipes is faster, by how much, and at which loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from lehr.cli.output import JsonOption, SetOption, print_json

if TYPE_CHECKING:
    from lehr.measurement.compare import Comparison, Side

__all__ = ["measure"]


def measure(
    recipe: Annotated[str, typer.Argument(help="The recipe A, and B where no other is given: a name or FILE.py.")],
    other: Annotated[str | None, typer.Argument(help="The recipe B.")] = None,
    set_: SetOption = [],  # noqa: B006 - read only
    a: Annotated[list[str], typer.Option("--a", metavar="PATH=VALUE", help="A change of A alone.")] = [],  # noqa: B006
    b: Annotated[list[str], typer.Option("--b", metavar="PATH=VALUE", help="A change of B alone.")] = [],  # noqa: B006
    budget: Annotated[str, typer.Option(help="How long the measurement may take: 90s, 5min.")] = "60s",
    json: JsonOption = False,
) -> None:
    """Train two recipes in turn, a window of steps at a time, and say which is faster, with an interval."""
    from lehr.base.durations import wall_seconds
    from lehr.base.errors import SettingError
    from lehr.cli.names import recipe_place
    from lehr.measurement.compare import measure as measure_
    from lehr.measurement.worker import Source

    if other is None and not a and not b:
        raise SettingError(
            f"both sides would be {recipe} as it is; give another recipe, or changes to one side, such as "
            "--b compile=true"
        )
    one = Source(recipe_place(recipe), (*set_, *a))
    two = Source(recipe_place(other or recipe), (*set_, *b))
    names = (" ".join([recipe, *a]), " ".join([other or recipe, *b]))
    found = measure_(one, two, budget=wall_seconds(budget), names=names)
    if json:
        print_json({"names": list(names)} | found.plain())
        return
    print("\n".join([f"A: {names[0]}", f"B: {names[1]}", "", *_lines(found)]))


def _lines(found: Comparison) -> list[str]:
    rows = [
        ("ms per step", "seconds_per_step", lambda v: f"{1000 * v:.3f}"),
        ("s to the first step", "start_seconds", lambda v: f"{v:.1f}"),
        ("s of warm-up beyond that", "warm_up_seconds", lambda v: f"{v:.1f}"),
        ("MB at the most", "peak_bytes", lambda v: f"{v / 1e6:.0f}"),
        (f"validation loss after {found.steps} steps", "loss", lambda v: f"{v:.4f}"),
        ("validation loss after equal time", "loss_at_equal_time", lambda v: f"{v:.4f}"),
    ]
    lines = [f"{'':34}  {'A':>10}  {'B':>10}"]
    for text, field, shown in rows:
        values = [_shown(side, field, shown) for side in (found.a, found.b)]
        lines.append(f"{text:34}  {values[0]:>10}  {values[1]:>10}")
    ratio, sure = found.ratio, f"{found.confidence:.0%}"
    said = {
        "faster": f"B is {ratio.median:.3f} times as fast as A",
        "slower": f"B is {1 / ratio.median:.3f} times as slow as A",
        "no evidence": "no evidence that either is faster",
    }[found.verdict]
    lines += [
        "",
        f"{said}: ratio {ratio.median:.3f}, {sure} interval {ratio.low:.3f} to {ratio.high:.3f}, from {found.pairs} "
        f"pairs of {found.window_steps} steps in {2 * found.arms} processes",
    ]
    if found.repaid_after:
        lines.append(f"B's longer warm-up is made up for after {found.repaid_after:,} steps")
    return lines + [f"note: {note}" for note in found.notes]


def _shown(side: Side, field: str, shown: Callable[[float], str]) -> str:
    value = getattr(side, field)
    return "" if value is None else shown(value)
