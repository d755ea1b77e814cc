"""Training seconds to a validation loss: lehr against a plain loop with the well-known setting for a small GPT.

python benchmarks/time_to_loss.py --data tinyshakespeare.txt --record time-to-loss
python benchmarks/time_to_loss.py --data tinyshakespeare.txt --seeds 1 --only lehr

Every run is a process of its own with two threads. Evaluations are not counted, a compilation is. A cold run begins
with an empty cache of compiled code; a warm one finds that of the run before.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

TARGET = 1.88
"""Validation loss per character on tiny Shakespeare."""
FIFTH = 0.2


def tokens(data: Path | None) -> tuple[Any, Any, int]:
    """Return the training tokens, the held-out ones, and how many there are, as lehr's recipes read them."""
    from lehr.data.text import TextData

    splits = (TextData(path=data, tokens="char") if data else TextData()).open()
    return splits.train.tokens.long(), splits.val.tokens.long(), int(splits.facts["vocab_size"])


def plain(options: argparse.Namespace) -> dict[str, Any]:
    """Train the plain loop."""
    import plain_gpt

    text, held_out, vocabulary = tokens(options.data)
    found = plain_gpt.train(text, held_out, vocabulary, seed=options.seed, target=options.target, steps=options.steps)
    return {"seconds": found.seconds, "step": found.step, "loss": found.loss, "all_seconds": found.all_seconds}


def same_model(options: argparse.Namespace) -> dict[str, Any]:
    """Train the plain loop's model with its batch, its optimizer and its schedule in lehr."""
    import plain_gpt

    import lehr
    from lehr.data.sources import IGNORE
    from lehr.data.text import TextData
    from lehr.losses import Supervised, cross_entropy
    from lehr.optim import AdamW
    from lehr.schedules import WarmupCosine

    vocabulary = tokens(options.data)[2]
    data: Any = {"path": options.data, "tokens": "char"} if options.data else {}
    recipe = lehr.Recipe(
        model=lambda: plain_gpt.PlainGPT(vocabulary),
        data=TextData(batch_size=plain_gpt.BATCH, val_batch_size=128, context=plain_gpt.CONTEXT, **data),
        objective=Supervised(loss=functools.partial(cross_entropy, ignore=IGNORE), unit="token"),
        optim=AdamW(lr=plain_gpt.RATE, betas=(0.9, 0.99), weight_decay=0.1),
        schedule=WarmupCosine(warmup=plain_gpt.WARMUP, floor=plain_gpt.LEAST_RATE / plain_gpt.RATE),
        steps=plain_gpt.STEPS,
        evaluate=lehr.Evaluate(every=plain_gpt.EVERY),
        save=lehr.Save(every="100%", best=False),
        seed=options.seed,
    )
    return _trained(recipe, options)


def fast(options: argparse.Namespace) -> dict[str, Any]:
    """Train lehr's recipe for it."""
    from lehr.recipes import gpt_fast

    recipe = gpt_fast.recipe().model_copy(update={"seed": options.seed})
    return _trained(recipe, options, [f"data.path={options.data}", "data.tokens=char"] if options.data else [])


def _trained(recipe: Any, options: argparse.Namespace, overrides: list[str] = []) -> dict[str, Any]:  # noqa: B006
    import lehr

    stop = [f"stop.val_loss={options.target}"] if options.target is not None else []
    with tempfile.TemporaryDirectory() as folder:
        result = lehr.train(recipe, run_dir=f"{folder}/run", overrides=[*overrides, *stop, *options.set])
    reached = result.stopped == "target"
    return {
        "seconds": result.train_seconds if reached else None,
        "step": result.step,
        "loss": result.val_loss,
        "all_seconds": result.train_seconds,
    }


ARMS = {"plain": plain, "same-model": same_model, "lehr": fast}


def run(
    arm: str, options: argparse.Namespace, *, seed: int, target: float | None, settings: list[str], cache: str
) -> dict[str, Any]:
    """Run one arm in a process of its own; returns what it says."""
    command = [sys.executable, __file__, "--arm", arm, "--seed", str(seed), "--steps", str(options.steps)]
    command += ["--data", str(options.data)] if options.data else []
    command += ["--target", str(target)] if target is not None else []
    for setting in settings:
        command += ["--set", setting]
    more = {"OMP_NUM_THREADS": str(options.threads), "TORCHINDUCTOR_CACHE_DIR": cache}
    done = subprocess.run(command, env=os.environ | more, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arm}, seed {seed}, failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{arm} {' '.join(settings)} seed {seed}: {found}", file=sys.stderr, flush=True)
    return found


def rows(options: argparse.Namespace) -> list[common.Row]:
    """Measure all arms, seed by seed in turn."""
    what = "characters of a file" if options.data else "bytes of the standard library"
    target = options.target
    taken: dict[str, list[float]] = {}
    reached: dict[str, int] = {}
    contestants: dict[str, tuple[str, list[str]]] = {
        "plain": ("plain", []),
        "lehr": ("lehr", ["precision=bf16-weights"]),
        "lehr, float32": ("lehr", []),
        "same model, eager": ("same-model", []),
        "same model, whole step, cold": ("same-model", ["step=whole"]),
        "same model, whole step, warm": ("same-model", ["step=whole"]),
    }
    chosen = {name: given for name, given in contestants.items() if not options.only or name in options.only}
    losses = []
    with tempfile.TemporaryDirectory() as caches:
        for seed in range(options.seeds):
            if target is None:  # what the plain loop comes to
                found = run("plain", options, seed=seed, target=None, settings=[], cache=f"{caches}/plain")
                losses.append(found["loss"])
                taken.setdefault("plain", []).append(found["all_seconds"])
            for name, (arm, settings) in chosen.items():
                if name == "plain" and target is None:
                    continue
                cache = f"{caches}/{arm}-{seed}"  # a warm run finds what the cold one of its seed has compiled
                aim = target if target is not None else losses[-1]
                found = run(arm, options, seed=seed, target=aim, settings=settings, cache=cache)
                # the plain setting, where it does not come so far, is given the time of all its steps: in the plain
                # loop's favor against lehr's recipe, and the same work for the same model
                missed = float("nan") if arm == "lehr" else found["all_seconds"]
                taken.setdefault(name, []).append(found["seconds"] or missed)
                reached[name] = reached.get(name, 0) + (found["seconds"] is not None)
    middle = {name: statistics.median(seconds) for name, seconds in taken.items()}
    found_rows = []
    for name, seconds in taken.items():
        spread = (min(seconds), max(seconds))
        reference = middle.get("plain")
        found_rows.append(
            common.Row(
                what=f"{what}: {name}, s ({reached.get(name, 0)} of {options.seeds} reached {target})",
                measured=middle[name],
                reference=reference,
                spread=spread,
            )
        )
    for name in taken:
        if name != "plain" and "plain" in taken:
            pairs = [a / b for a, b in zip(taken[name], taken["plain"], strict=True)]
            aim = FIFTH if name == "lehr" else None
            ratio = statistics.median(pairs)
            found_rows.append(
                common.Row(
                    what=f"{what}: {name} / plain",
                    measured=ratio,
                    target=aim,
                    met=None if aim is None else ratio <= aim,
                    spread=(min(pairs), max(pairs)),
                )
            )
    return found_rows


def main() -> None:
    """Measure, or be one of what is measured."""
    options = common.parser(__doc__ or "")
    options.add_argument("--data", type=Path, help="a text; the standard library's bytes if not given")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--steps", type=int, default=2000, help="steps of the plain loop")
    options.add_argument("--only", action="append", default=[], help="a contestant; may be repeated")
    options.add_argument("--set", action="append", default=[], help=argparse.SUPPRESS)
    options.add_argument("--target", type=float, help=f"validation loss; {TARGET} for a file")
    options.add_argument("--arm", choices=list(ARMS), help=argparse.SUPPRESS)
    options.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.arm:
        print(json.dumps(ARMS[given.arm](given)))
        return
    if given.target is None and given.data is not None:
        given.target = TARGET
    if given.quick:
        given.seeds = 1
    common.finish(rows(given), given)


if __name__ == "__main__":
    main()
