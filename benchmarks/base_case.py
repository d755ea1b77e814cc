"""The guide's base case: 600 pairs, 50 epochs, batches of 4 accumulated to 32, against the patch that lehr speed chose.

python benchmarks/base_case.py --record base-case
python benchmarks/base_case.py --patch patch.json
python benchmarks/base_case.py --plans --record base-case-plans

The plain loop is the guide's: Adam at 5e-5, float32, eager, one loss read at every batch, the sum of eight batches
clipped and stepped. lehr trains the same model on the same number of samples, with its patch, compilation included.
``--plans`` measures the guide's own plans and combinations beside what it says of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

EPOCHS, BATCH, ACCUMULATE, RATE = 50, 4, 8, 5e-5
TARGET, HOPED = 5.0, 4.7
LOSS = 1.02
PLANS: dict[str, tuple[float | None, list[str]]] = {
    "nothing changed": (1.0, []),
    "plan 1, bf16": (2.25, ["precision=bf16"]),
    "plan 2, batches of 8": (1.5, ["accumulate=4"]),
    "plan 2, batches of 16": (2.5, ["accumulate=2"]),
    "plan 2, batches of 32": (3.7, ["accumulate=1"]),
    "plan 4, compiled": (1.3, ["compile=true"]),
    "plan 5, 8-bit moments": (1.25, ["optim=adamw_8bit", "optim.lr=5e-5", "optim.weight_decay=0"]),
    "plan 6, numbers read late": (1.2, ["track.read=record"]),
    "plan 8, recomputed": (0.875, ["recompute=blocks"]),
    "combination 1": (3.0, ["accumulate=2", "precision=bf16"]),
    "combination 2": (5.5, ["accumulate=1", "precision=bf16", "compile=true", "track.read=record"]),
    "product of the factors": (4.7, ["accumulate=2", "precision=bf16", "compile=true", "track.read=record"]),
    "what lehr speed keeps": (None, ["accumulate=1", "data.bucket=true", "dropout=packed"]),
}
"""Name -> how many times as fast the guide hopes it to be, and the settings. Its fused AdamW is what Adam is here
anyway; its workers (plan 3) are refused, since the pairs lie in memory; and on a CPU there is no memory to pin and no
device to put the data on (plan 7)."""


def recipe() -> Any:
    """Return the base case as a recipe: the same batches of 32, cut into eight."""
    from lehr.optim import Adam
    from lehr.recipes import translate
    from lehr.run.recipe import Evaluate, Save
    from lehr.schedules import Constant

    base = translate.recipe()
    return base.model_copy(
        update={
            "optim": Adam(lr=RATE),
            "schedule": Constant(),
            "accumulate": ACCUMULATE,
            "epochs": EPOCHS,
            "metrics": base.metrics[:1],  # exact matches are dear, and not what is compared
            "evaluate": Evaluate(every="100%"),
            "save": Save(every="100%", best=False),
        }
    )


def plain(seed: int, epochs: int) -> dict[str, float]:
    """Train as the guide's loop does; returns the seconds and the validation loss."""
    import torch
    import torch.nn.functional as F

    from lehr.models.seq2seq import Seq2SeqSettings

    splits = recipe().data.open()
    torch.manual_seed(seed)
    device = common.device()
    model = Seq2SeqSettings().build(splits.facts).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    order = torch.Generator().manual_seed(seed)

    def loss_of(*batch: Any) -> Any:
        source, given, target = (tensor.to(device) for tensor in batch)
        return F.cross_entropy(model(source, given).flatten(0, 1), target.flatten(), ignore_index=0)

    started = time.perf_counter()
    for epoch in range(epochs):
        permutation, total = torch.randperm(len(splits.train), generator=order), 0.0
        optimizer.zero_grad()
        for place, indices in enumerate(permutation.split(BATCH)):
            loss = loss_of(*splits.train.take_batch(indices, epoch=epoch, seed=seed))
            (loss / ACCUMULATE).backward()
            total += loss.item()
            if (place + 1) % ACCUMULATE == 0:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
    seconds = time.perf_counter() - started
    model.eval()
    with torch.no_grad():
        batch = splits.val.take_batch(torch.arange(len(splits.val)), epoch=0, seed=0)
        return {"seconds": seconds, "loss": float(loss_of(*batch))}


def ours(seed: int, epochs: int, settings: list[str]) -> dict[str, float]:
    """Train the recipe with changes."""
    import lehr

    with tempfile.TemporaryDirectory() as folder:
        given = recipe().model_copy(update={"seed": seed, "epochs": epochs})
        result = lehr.train(given, run_dir=f"{folder}/run", overrides=settings)
    return {"seconds": result.train_seconds, "loss": float(result.val_loss or "nan")}


def rows(options: argparse.Namespace) -> list[common.Row]:
    """Let lehr speed choose, and measure both sides in turn."""
    from lehr.run.patch import read_patch

    with tempfile.TemporaryDirectory() as folder:
        patch = options.patch or _chosen(Path(folder), options)
        settings = list(read_patch(patch))
        print(f"patch: {settings}", file=sys.stderr)
        seeds, epochs = (1, 5) if options.quick else (3, EPOCHS)
        taken: dict[str, list[dict[str, float]]] = {"plain": [], "ours": []}
        for seed in range(seeds):
            for name in ("plain", "ours") if seed % 2 == 0 else ("ours", "plain"):
                taken[name].append(_apart(name, seed, epochs, settings, folder, options))
    seconds = {name: [found["seconds"] for found in runs] for name, runs in taken.items()}
    losses = {name: [found["loss"] for found in runs] for name, runs in taken.items()}
    ratio, low, high = common.ratios(seconds, "plain", "ours")
    loss, *spread = common.ratios(losses, "ours", "plain")
    return [
        common.Row(what="plain loop, s", measured=sorted(seconds["plain"])[seeds // 2], reference=25 * 60),
        common.Row(
            what=f"with {' '.join(settings)}, compilation included, s", measured=sorted(seconds["ours"])[seeds // 2]
        ),
        common.Row(
            what="times as fast; the guide hopes for",
            measured=ratio,
            reference=HOPED,
            target=TARGET,
            met=ratio >= TARGET,
            spread=(low, high),
        ),
        common.Row(
            what="validation loss / plain loop's",
            measured=loss,
            target=LOSS,
            met=loss <= LOSS,
            spread=(spread[0], spread[1]),
        ),
    ]


def plans(options: argparse.Namespace) -> list[common.Row]:
    """Measure each of the guide's plans once: the epochs of what compiles are all there, of the others a fifth."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        lengths = (EPOCHS // 5, EPOCHS) if options.compiled else (EPOCHS // 5,)
        base = {epochs: _apart("plain", 0, epochs, [], folder, options) for epochs in lengths}
        for name, (hoped, settings) in PLANS.items():
            if "compile=true" in settings and not options.compiled:
                continue
            epochs = EPOCHS if "compile=true" in settings else EPOCHS // 5
            try:
                run = _apart("ours", 0, epochs, settings, folder, options)
            except SystemExit as error:  # one that fails costs only itself
                print(error, file=sys.stderr)
                continue
            times = {of: base[epochs][of] / run[of] for of in ("seconds", "loss")}
            what = f"{name}, {epochs} epochs: times as fast, loss {1 / times['loss']:.3f}"
            found.append(common.Row(what=what, measured=times["seconds"], reference=hoped))
    return found


def _chosen(folder: Path, options: argparse.Namespace) -> Path:
    import lehr
    from lehr.run.patch import write_patch

    report = lehr.speed(f"{Path(__file__).resolve()}:recipe", budget=60.0 if options.quick else options.budget)
    print(json.dumps(report.plain(), indent=1), file=sys.stderr)
    return write_patch(folder / "patch.json", report.patch, recipe="base case", why=report.reason)


def _apart(
    name: str, seed: int, epochs: int, settings: list[str], folder: str, options: argparse.Namespace
) -> dict[str, float]:
    """Train in a process of its own, with an empty cache of compiled code."""
    command = [sys.executable, __file__, "--arm", name, "--seed", str(seed), "--epochs", str(epochs)]
    command += [word for setting in settings for word in ("--set", setting)]
    cold = {"TORCHINDUCTOR_CACHE_DIR": tempfile.mkdtemp(dir=folder), "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, env=os.environ | cold, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} {settings}, seed {seed}, failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{name} {settings}, seed {seed}: {found}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure, or be one side of what is measured."""
    options = common.parser(__doc__ or "")
    options.add_argument("--budget", type=float, default=300.0, help="seconds that lehr speed may take")
    options.add_argument("--patch", type=Path, help="a patch to measure in place of choosing one")
    options.add_argument("--plans", action="store_true", help="the guide's plans in place of a patch")
    options.add_argument("--compiled", action="store_true", help="with --plans: those that compile too, minutes each")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--arm", choices=["plain", "ours"], help=argparse.SUPPRESS)
    options.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options.add_argument("--epochs", type=int, default=EPOCHS, help=argparse.SUPPRESS)
    options.add_argument("--set", action="append", default=[], help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.arm == "plain":
        print(json.dumps(plain(given.seed, given.epochs)))
    elif given.arm == "ours":
        print(json.dumps(ours(given.seed, given.epochs, given.set)))
    else:
        common.finish(plans(given) if given.plans else rows(given), given)


if __name__ == "__main__":
    main()
