"""What each lever gains on several recipes: the figures on the levers' cards.

python benchmarks/levers.py --record levers
python benchmarks/levers.py --lever bf16 --recipe gpt-text --seconds 30
python benchmarks/levers.py --pictures cifar10.npz --recipe images --lever workers

Each lever is measured by itself against the recipe without it, in processes of their own, in windows that take turns.
Where a lever does not apply, the reason is printed in its place.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import common

LONG = "steps=100000"
RECIPES: dict[str, tuple[str, list[str]]] = {
    "gpt-text": ("gpt_text", [LONG]),
    "gpt-fast": ("gpt_fast", [LONG]),
    "digits": ("digits", [LONG]),
    "translate": ("translate", [LONG]),
    "translate, 8 microbatches": ("translate", [LONG, "accumulate=8"]),
}
ALSO = {"recompute": [("recompute=blocks",), ("recompute=cheap",)]}
"""What `lehr speed` does not try, since it saves memory."""
SECONDS, COMPILING = 12.0, 90.0
PICTURES = 4000
CLAIMED = {"bf16": 2.0, "microbatches": 3.7, "compile": 1.5, "workers": 1.4, "resident-data": 1.15, "recompute": 0.875}
"""The guide's figure: 2 to 2.5, 2.5 to 3.7, 1.5 to 2, 1.4, 1.15, 10 to 15 % slower."""


def write_pictures(file: Path, folder: Path) -> None:
    """Write color pictures as JPEG files, a folder for each class, as `images` reads them."""
    import numpy as np

    packed = np.load(file)
    content, offsets, labels = packed["train_jpeg"].tobytes(), packed["train_offsets"], packed["train_labels"]
    for index in np.random.default_rng(0).permutation(len(labels))[:PICTURES]:
        place = folder / str(packed["classes"][labels[index]])
        place.mkdir(exist_ok=True, parents=True)
        (place / f"{index}.jpg").write_bytes(content[offsets[index] : offsets[index + 1]])


def rows(options: argparse.Namespace) -> list[common.Row]:
    """Measure every lever on every recipe, and on pictures in files if there are any."""
    with tempfile.TemporaryDirectory() as folder:
        recipes = dict(RECIPES)
        if options.pictures:
            write_pictures(options.pictures, Path(folder) / "pictures")
            recipes["images"] = ("images", [LONG, f"data.path={folder}/pictures", "data.size=32"])
        return measured(recipes, options)


def measured(recipes: Mapping[str, tuple[str, list[str]]], options: argparse.Namespace) -> list[common.Row]:
    """Measure every lever on these recipes."""
    from lehr.base.errors import LehrError
    from lehr.levers import LEVERS, NotHere
    from lehr.measurement import Source, measure
    from lehr.measurement.worker import Worker

    found = []
    for name, (module, settings) in recipes.items():
        if options.recipe and name not in options.recipe:
            continue
        source = Source(f"lehr.recipes.{module}:recipe", tuple(settings))
        with tempfile.TemporaryDirectory() as folder, Worker(name, source, Path(folder) / "run") as worker:
            setup = worker.setup()
        for lever_name, row in LEVERS.items():
            if options.lever and lever_name not in options.lever:
                continue
            lever = row.make()
            try:
                choices = ALSO[lever_name] if lever_name in ALSO else lever.options(setup)
            except NotHere as error:
                print(f"{name}: {lever_name}: {error}", file=sys.stderr)
                continue
            for choice in choices[: 1 if options.quick else None]:
                other = Source(source.recipe, (*source.overrides, *choice))
                budget = options.seconds + (COMPILING if lever.compiles else 0.0)
                what = f"{name}: {' '.join(choice)}"
                try:
                    result = measure(source, other, budget=budget, names=(name, what))
                except LehrError as error:
                    print(f"{what}: {str(error).splitlines()[0]}", file=sys.stderr)
                    continue
                ratio = result.ratio
                loss = result.train_loss_delta
                repaid = f", repaid after {result.repaid_after}" if result.repaid_after else ""
                memory = result.b.peak_bytes / result.a.peak_bytes
                print(
                    f"{what}: {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), {result.verdict}, memory "
                    f"{memory:.2f}, loss {'' if loss is None else f'{loss:+.2%}'}{repaid}",
                    file=sys.stderr,
                    flush=True,
                )
                found.append(
                    common.Row(
                        what=f"{what} ({result.verdict}{repaid}); memory {memory:.2f}",
                        measured=ratio.median,
                        reference=CLAIMED.get(lever_name),
                        spread=(ratio.low, ratio.high),
                    )
                )
    return found


def main() -> None:
    """Run it."""
    options = common.parser(__doc__ or "")
    options.add_argument("--lever", action="append", default=[], help="this lever only; may be repeated")
    options.add_argument("--recipe", action="append", default=[], help="this recipe only; may be repeated")
    options.add_argument("--seconds", type=float, default=SECONDS, help="for each pair, beside a compilation")
    options.add_argument("--pictures", type=Path, help="a file of JPEGs, for a recipe that reads sample by sample")
    given = options.parse_args()
    common.finish(rows(given), given)


if __name__ == "__main__":
    main()
