"""How much two processes of one recipe differ, which is what a comparison has to allow for.

    python benchmarks/same_recipe.py --record same-recipe

Above 1, the one that was begun first takes longer. Each pair of processes is measured in both orders, so that the place
in a comparison cancels. What `lehr measure` does about it stands below: two pairs, begun in opposite order.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys

import common
import watched

from lehr.measurement.compare import compare
from lehr.measurement.worker import Source, both

RECIPES = {"mlp": f"{watched.__file__}:mlp", "digits": "lehr.recipes.digits:recipe"}


def first_over_second(source: Source, seconds: float) -> float:
    """Begin two processes of one recipe, and return how many times as long the first takes for a step."""
    with both(source, source) as (one, other):
        there, back = (
            compare(*arms, budget=seconds / 2, validate=False).ratio.median for arms in ((one, other), (other, one))
        )
    return math.sqrt(there / back)


def rows(options: argparse.Namespace) -> list[common.Row]:
    found = []
    for name, recipe in RECIPES.items():
        pairs = [
            first_over_second(Source(recipe), options.seconds) for _ in range(4 if options.quick else options.pairs)
        ]
        print(name, *(f"{ratio:.3f}" for ratio in pairs), file=sys.stderr, flush=True)
        crossed = [math.sqrt(one / other) for one, other in zip(pairs[::2], pairs[1::2], strict=True)]
        for what, ratios in {"the first of two": pairs, "two pairs in opposite order": crossed}.items():
            scatter = statistics.stdev(ratios)
            found.append(
                common.Row(
                    what=f"{name}: {what}, mean of {len(ratios)}, standard deviation {scatter:.3f}",
                    measured=statistics.mean(ratios),
                    spread=(min(ratios), max(ratios)),
                )
            )
    return found


def main() -> None:
    """Run it."""
    options = common.parser(__doc__ or "")
    options.add_argument("--pairs", type=int, default=16, help="of processes, for each recipe; an even number")
    options.add_argument("--seconds", type=float, default=6.0, help="for each pair")
    given = options.parse_args()
    common.finish(rows(given), given)


if __name__ == "__main__":
    main()
