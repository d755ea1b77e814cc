"""What the recipes that combine techniques reach, beside themselves without them: whole commands, several seeds.

python benchmarks/combined.py
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import common
import recipes

WITHOUT: dict[str, list[str]] = {
    "digits-mixup": ["evaluate.monitor=accuracy", "methods=[]", "model.drop_path=0", "objective=cross_entropy"],
    "digits-one-cycle": ["schedule=step", "optim.lr=0.1", "optim.momentum=0.9"],
    "digits-distill": ["objective.alpha=0"],
    "digits-transfer": ["weights=none", "weights_leave=[]", "methods=[]", "optim.layer_decay=none"],
}
"""What takes the techniques out of a recipe that combines some, and leaves the rest as it is."""
SEEDS = 3


def combined(folder: Path, shorten: list[str]) -> list[common.Row]:
    """The recipes that combine techniques, beside themselves without: means over seeds, and their spread."""
    rows = []
    for name, without in WITHOUT.items():
        reached: dict[str, list[float]] = {"with": [], "without": []}
        seconds = []
        for seed in range(1 if shorten else SEEDS):
            for kind, settings in (("with", []), ("without", without)):
                more = [word for setting in (f"seed={seed}", *settings) for word in ("--set", setting)]
                result, _ = recipes.trained(name, folder / f"{name}-{kind}-{seed}", *more, *shorten, cwd=folder)
                metrics = result["metrics"]
                reached[kind].append(metrics.get("ema_accuracy", metrics["accuracy"]))
                seconds += [result["train_seconds"]] * (kind == "with")
        rows.append(
            common.Row(
                what=f"{name}: validation accuracy, and without its techniques",
                measured=statistics.mean(reached["with"]),
                reference=statistics.mean(reached["without"]),
                spread=(min(reached["with"]), max(reached["with"])),
            )
        )
        rows.append(common.Row(what=f"{name}: training, s", measured=statistics.median(seconds)))
    result, seconds_in_all = recipes.trained("gpt-wsd", folder / "gpt-wsd", *shorten, cwd=folder)
    rows.append(common.Row(what="gpt-wsd: bits per byte", measured=result["metrics"]["bits_per_byte"]))
    return [*rows, *recipes.times("gpt-wsd", result, seconds_in_all)]


def main() -> None:
    options = common.parser(__doc__.splitlines()[0]).parse_args()
    shorten = ["--set", "steps=20"] if options.quick else []
    with tempfile.TemporaryDirectory() as name:
        common.finish(combined(Path(name), shorten), options)


if __name__ == "__main__":
    main()
