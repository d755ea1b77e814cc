"""Progressive low rank against full rank, on the same tokens, with two controls: a narrower model, and less training.

Whole commands, one CPU thread each; the two runs of a pair are made side by side on two cores, so that a machine whose
speed drifts treats both alike. "narrow" is a dense model with the number of parameters that low rank ends with; "short"
is the dense model with as many steps as fit into low rank's training time, its schedule ending with them.

    python benchmarks/lowrank_training.py
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import recipes

ALONE = ["--set", "threads=1"]
QUICK = (["steps=12", "evaluate.every=50%"], ["methods.progressive_lowrank.at=50%"])
"""What the quick form sets for all runs, and for those that switch."""
SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """A recipe with progressive low rank, and how it is made dense and narrow."""

    recipe: str
    label: str
    settings: tuple[str, ...]
    """What is set for all of its runs."""
    narrow: Callable[[int], list[str]]
    """The settings of a dense model with about that many parameters."""
    seeds: int
    gain: float | None
    """How many times less training time is asked for."""
    loss: float
    """By which share the validation loss may be higher."""
    claimed: str
    """What the guide says."""
    exact: float | None = None
    """Which share of the training pairs both have to answer exactly."""


def gpt_of(parameters: int, heads: int = 6) -> list[str]:
    """Return the settings of a dense GPT with about so many parameters."""
    from lehr.models.gpt import GPTSettings

    def size(width: int) -> int:
        model = GPTSettings(width=width, depth=3, heads=heads).build({"vocab_size": 256, "context": 256})
        return sum(p.numel() for p in model.parameters())

    width = min(range(2 * heads, 800, 2 * heads), key=lambda w: abs(size(w) - parameters))
    return [f"model.width={width}"]


def seq2seq_of(parameters: int, heads: int = 4) -> list[str]:
    """Return the settings of a dense encoder-decoder with about so many parameters."""
    from lehr.models.seq2seq import Seq2SeqSettings

    facts = {"source_vocab_size": 60, "target_vocab_size": 600, "source_length": 40, "target_length": 20}

    def size(width: int) -> int:
        return sum(p.numel() for p in Seq2SeqSettings(width=width, heads=heads).build(facts).parameters())

    width = min(range(2 * heads, 800, 2 * heads), key=lambda w: abs(size(w) - parameters))
    return [f"model.width={width}"]


GPT = Case(
    recipe="gpt-text-lowrank",
    label="gpt-text, width 384",
    settings=(),
    narrow=gpt_of,
    seeds=1,
    gain=1.35,
    loss=0.01,
    claimed="guide: 2 to 3 times",
)
TRANSLATE = {
    width: Case(
        recipe="translate-lowrank",
        label=f"translate, width {width}",
        settings=(f"model.width={width}",),
        narrow=seq2seq_of,
        seeds=SEEDS,
        gain=1.8 if width == 512 else None,
        loss=0.02,
        claimed="guide: 2.8 times",
        exact=0.9 if width == 512 else None,
    )
    for width in (512, 256)
}


PLANS = {
    "plan 1, two factors everywhere from the start (guide: 5 to 10 times)": [
        "methods=lowrank_layers",
        'methods.lowrank_layers.layers=["*"]',
        "methods.lowrank_layers.margin=0.01",
    ],
    "plan 2, progressive from epoch 10 on (guide: 2 to 3 times)": [],
    "plan 3, where a layer gains by it, from the start (guide: 1.5 to 2 times)": ["methods=lowrank_layers"],
    "plan 4, dynamic rank (guide: 2 to 4 times)": ["methods=dynamic_lowrank"],
}
"""The guide's four plans as settings of translate-lowrank, all at a tenth of the rank in the end."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run came to."""

    seconds: float
    loss: float
    curve: list[tuple[float, float]]
    """(training seconds, validation loss) at each evaluation."""
    parameters: int
    exact: float | None


def run(case: Case, folder: Path, *settings: str) -> Run:
    """Train in a process of its own, on one thread."""
    words = [word for setting in (*case.settings, *settings) for word in ("--set", setting)]
    result, _ = recipes.trained(case.recipe, folder, *words, *ALONE)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [(line["step"], line["seconds"]) for line in lines if line["split"] == "train"]
    validated = [(line["step"], line["loss"]) for line in lines if line["split"] == "val"]
    seconds = np.interp([step for step, _ in validated], *zip(*trained, strict=True))  # not every step has a record
    curve = [(float(at), loss) for at, (_, loss) in zip(seconds, validated, strict=True)]
    exact = None
    if case.recipe.startswith("translate"):
        exact = recipes.lehr("eval", str(folder), "--checkpoint", "last", "--split", "train")["metrics"]["exact_match"]
    return Run(
        seconds=result["train_seconds"],
        loss=result["val_loss"],
        curve=curve,
        parameters=_parameters(folder),
        exact=exact,
    )


def _parameters(folder: Path) -> int:
    from safetensors import safe_open

    last = max((folder / "checkpoints").glob("step-*"))
    with safe_open(last / "model.safetensors", "pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118


def beside(first: Callable[[], Run], second: Callable[[], Run]) -> tuple[Run, Run]:
    """Run two processes at the same time, one core each."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        one, other = pool.submit(first), pool.submit(second)
        return one.result(), other.result()


def seconds_to(run: Run, loss: float) -> float | None:
    """Return the training seconds at the first evaluation with this loss or less."""
    return next((seconds for seconds, value in run.curve if value <= loss), None)


def compare(case: Case, folder: Path, options: Any) -> list[common.Row]:
    """Full rank, low rank and the two controls, over seeds."""
    shorten, switch = QUICK if options.quick else ([], [])
    found: dict[str, list[Run]] = {"full": [], "low": [], "narrow": [], "short": []}
    for seed in range(1 if options.quick else case.seeds):
        seeded = [f"seed={seed}", *shorten]
        name = f"{case.label}-{seed}".replace(" ", "-").replace(",", "")
        full, low = beside(
            lambda n=name, s=seeded: run(case, folder / f"{n}-full", "methods=[]", *s),
            lambda n=name, s=seeded: run(case, folder / f"{n}-low", *s, *switch),
        )
        steps = json.loads((folder / f"{name}-full" / "recipe.json").read_text())["total_steps"]
        fewer = [f"seed={seed}", f"steps={max(2, round(steps * low.seconds / full.seconds))}", *shorten[1:]]
        narrow, short = beside(
            lambda n=name, s=seeded, p=low.parameters: run(
                case, folder / f"{n}-narrow", "methods=[]", *case.narrow(p), *s
            ),
            lambda n=name, s=fewer: run(case, folder / f"{n}-short", "methods=[]", *s),
        )
        for kind, made in (("full", full), ("low", low), ("narrow", narrow), ("short", short)):
            found[kind].append(made)
    return _rows(case, found, quick=options.quick)


def _rows(case: Case, found: dict[str, list[Run]], *, quick: bool) -> list[common.Row]:
    def ratio(of: Callable[[Run], float], kind: str) -> tuple[float, tuple[float, float]]:
        values = [of(a) / of(b) for a, b in zip(found["full"], found[kind], strict=True)]
        return statistics.median(values), (min(values), max(values))

    gain, gains = ratio(lambda r: r.seconds, "low")
    rows = [
        common.Row(
            what=f"{case.label}: training time, full / low rank ({case.claimed})",
            measured=gain,
            target=None if quick else case.gain,
            met=None if quick or case.gain is None else gain >= case.gain,
            spread=gains,
        )
    ]
    for kind in ("low", "narrow", "short"):
        values = [a.loss / b.loss for a, b in zip(found[kind], found["full"], strict=True)]
        limit = 1 + case.loss if kind == "low" and not quick else None
        value = statistics.median(values)
        what = {"low": "low rank", "narrow": "control, a narrower dense model", "short": "control, dense for that time"}
        rows.append(
            common.Row(
                what=f"{case.label}: validation loss over full rank, {what[kind]}",
                measured=value,
                target=limit,
                met=None if limit is None else value <= limit,
                spread=(min(values), max(values)),
            )
        )
    time, _ = ratio(lambda r: r.seconds, "narrow")
    rows.append(common.Row(what=f"{case.label}: training time, full / narrower dense", measured=time))
    for one, other, text in (("full", "low", "low rank's"), ("low", "full", "full rank's")):
        times = [seconds_to(a, b.loss) for a, b in zip(found[one], found[other], strict=True)]
        reached = [t / b.seconds for t, b in zip(times, found[other], strict=True) if t is not None]
        if reached:
            rows.append(
                common.Row(
                    what=f"{case.label}: {one} rank's time to {text} last loss, as a share of {text} time",
                    measured=statistics.median(reached),
                )
            )
    for kind in found:
        rows.append(
            common.Row(
                what=f"{case.label}: {kind}: validation loss; seconds as reference",
                measured=statistics.median(r.loss for r in found[kind]),
                reference=statistics.median(r.seconds for r in found[kind]),
            )
        )
        exact = [r.exact for r in found[kind] if r.exact is not None]
        if exact:
            target = None if quick or kind not in ("full", "low") else case.exact
            rows.append(
                common.Row(
                    what=f"{case.label}: {kind}: exact matches of training pairs",
                    measured=min(exact),
                    target=target,
                    met=None if target is None else min(exact) >= target,
                    spread=(min(exact), max(exact)),
                )
            )
    return rows


def gpt_text(options: Any) -> list[common.Row]:
    with tempfile.TemporaryDirectory() as folder:
        return compare(GPT, Path(folder), options)


def translate(options: Any, width: int) -> list[common.Row]:
    with tempfile.TemporaryDirectory() as folder:
        return compare(TRANSLATE[width], Path(folder), options)


def times_512(options: Any) -> list[common.Row]:
    """The time of the base case at width 512 alone, one seed, for when the machine was busy while the rest was made."""
    case = TRANSLATE[512]
    shorten, switch = QUICK if options.quick else ([], [])
    with tempfile.TemporaryDirectory() as folder:
        full, low = beside(
            lambda: run(case, Path(folder) / "full", "methods=[]", *shorten),
            lambda: run(case, Path(folder) / "low", *shorten, *switch),
        )
    gain = full.seconds / low.seconds
    what = f"{case.label}: training time, full / low rank ({case.claimed})"
    met = None if options.quick or case.gain is None else gain >= case.gain
    loss = common.Row(what=f"{case.label}: validation loss over full rank", measured=low.loss / full.loss)
    return [common.Row(what=what, measured=gain, target=case.gain, met=met), loss]


def factor_rates(options: Any) -> list[common.Row]:
    """What the rate of the factors over that of their matrices does to the loss, one seed; two runs at a time."""
    shorten, _ = QUICK if options.quick else ([], [])
    rates = (1.0, 2.0, 4.0, 8.0)
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(2) as pool:

        def trained(rate: float) -> Run:
            setting = f"methods.progressive_lowrank.factor_rate={rate}"
            return run(GPT, Path(folder) / f"rate-{rate:g}", setting, *shorten)

        made = list(pool.map(trained, rates))
    return [
        common.Row(what=f"{GPT.label}: factors at {rate:g} times the rate: validation loss", measured=found.loss)
        for rate, found in zip(rates, made, strict=True)
    ]


def plans(options: Any) -> list[common.Row]:
    """The guide's four plans beside the dense model, one seed, at width 256."""
    case = TRANSLATE[256]
    shorten, switch = QUICK if options.quick else ([], [])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for place, (name, settings) in enumerate(PLANS.items()):
            own = [*(settings or switch), *shorten]
            full, made = beside(
                lambda p=place: run(case, Path(folder) / f"full-{p}", "methods=[]", *shorten),
                lambda p=place, o=own: run(case, Path(folder) / f"plan-{p}", *o),
            )
            what = f"{case.label}, {name}"
            rows += [
                common.Row(what=f"{what}: training time, full / low rank", measured=full.seconds / made.seconds),
                common.Row(
                    what=f"{what}: validation loss, and the dense one's", measured=made.loss, reference=full.loss
                ),
                common.Row(what=f"{what}: parameters, as a share", measured=made.parameters / full.parameters),
            ]
            if made.exact is not None:
                exact = f"{what}: exact matches of training pairs, and the dense one's"
                rows.append(common.Row(what=exact, measured=made.exact, reference=full.exact))
    return rows


def main() -> None:
    options = common.parser(__doc__.splitlines()[0]).parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = gpt_text(options)
    for width in TRANSLATE:
        rows += translate(options, width)
    common.finish(rows, options)


if __name__ == "__main__":
    main()
