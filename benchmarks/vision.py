"""Training seconds to an accuracy on pictures: lehr's recipe against a plain loop with the usual settings.

python benchmarks/vision.py --record vision
python benchmarks/vision.py --cifar cifar10.npz

The plain loop is a DataLoader, Adam at 1e-3 and batches of 64, with the network of lehr's `digits`; for 32x32 color
pictures a small ResNet with SGD at 0.1 and momentum, on a reduced set. Both sides are looked at as often, and that is
not counted. Beside lehr's own recipe, whose network is smaller, stands lehr with the plain loop's network.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

THIRD = 1 / 3
DIGITS, CIFAR = 0.98, 0.60
"""Validation accuracies."""
REDUCED = (10_000, 2_000)
"""Color pictures for training and for validation."""
EPOCHS = 60
"""The most that the plain loop may take."""


def pictures(file: Path) -> tuple[Any, Any, Any, Any]:
    """Return training and validation pictures between -1 and 1 with their labels, from a file of JPEGs by class."""
    import io

    import numpy as np
    import torch
    from PIL import Image

    packed = np.load(file)
    found: list[Any] = []
    for side, many in zip(("train", "test"), REDUCED, strict=True):
        content, offsets = packed[f"{side}_jpeg"].tobytes(), packed[f"{side}_offsets"]
        labels = packed[f"{side}_labels"].astype("int64")
        drawn = np.random.default_rng(0).permutation(len(labels))[:many]
        rows = [np.asarray(Image.open(io.BytesIO(content[offsets[i] : offsets[i + 1]]))) for i in drawn]
        found.append(torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous())
        found.append(torch.from_numpy(labels[drawn]))
    return found[0], found[1], found[2], found[3]


def looks(options: argparse.Namespace) -> int:
    """Return how often an epoch is looked at, on both sides."""
    return 2 if options.cifar else 4


def data(options: argparse.Namespace) -> tuple[Any, Any, Any, Any]:
    """Return the pictures of the case."""
    if options.cifar:
        return pictures(options.cifar)
    from lehr.data.digits import DigitsData

    splits = DigitsData().open()
    return (*splits.train, *splits.val)


def network(options: argparse.Namespace) -> Any:
    """Return the plain loop's network."""
    from lehr.models.convnet import ConvNetSettings
    from lehr.models.resnet import ResNetSettings

    facts = {"channels": 3 if options.cifar else 1, "num_classes": 10, "height": 8, "width": 8}
    return (ResNetSettings(width=16, blocks=1) if options.cifar else ConvNetSettings()).build(facts)


def plain(options: argparse.Namespace) -> dict[str, Any]:
    """Train as most scripts do."""
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader, TensorDataset

    x, y, x_val, y_val = data(options)
    torch.manual_seed(options.seed)
    device = common.device()
    model, x_val, y_val = network(options).to(device), x_val.to(device), y_val.to(device)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)
    if options.cifar:
        optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    else:
        optimizer, schedule = torch.optim.Adam(model.parameters(), lr=1e-3), None
    look, step, seconds, accuracy = len(loader) // looks(options), 0, 0.0, 0.0
    started = common.clock()
    for _ in range(EPOCHS):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            step += 1
            if step % look == 0:
                seconds += common.clock() - started
                model.eval()
                with torch.no_grad():
                    scores = torch.cat([model(part) for part in x_val.split(500)])
                model.train()
                accuracy = float((scores.argmax(dim=1) == y_val).float().mean())
                if accuracy >= options.accuracy:
                    return {"seconds": seconds, "epochs": step / len(loader), "accuracy": accuracy}
                started = common.clock()
        if schedule is not None:
            schedule.step()
    return {"seconds": None, "epochs": EPOCHS, "accuracy": accuracy}


def recipe(options: argparse.Namespace, *, same: bool) -> Any:
    """Return what lehr trains: its own choice, or the plain loop's network."""
    import lehr
    from lehr.losses import Supervised, cross_entropy
    from lehr.models.convnet import ConvNetSettings
    from lehr.optim import AdamW, Muon
    from lehr.recipes import digits_fast

    changes: dict[str, Any] = {"precision": "bf16-weights", "channels_last": True}
    if not options.cifar:
        same_changes = {"model": lambda: network(options), "optim": AdamW(lr=0.01, weight_decay=0.0), "epochs": 2}
        return digits_fast.recipe().model_copy(update=same_changes | changes if same else {})
    x, y, x_val, y_val = data(options)
    small = ConvNetSettings(width=32, stages=(1, 1, 1), dropout=0.0)
    adamw = AdamW(lr=0.01, weight_decay=0.0)
    own = {
        "model": lambda: network(options) if same else small.build({"channels": 3, "num_classes": 10}),
        "data": lehr.Data(train=(x, y), val=(x_val, y_val), batch_size=64, val_batch_size=500),
        "objective": Supervised(loss=cross_entropy),
        "optim": Muon(lr=0.05, momentum=0.9, convolutions="flatten", adamw=adamw),
        "epochs": 5,
        "evaluate": lehr.Evaluate(every=f"{1 / looks(options)} epoch", monitor="accuracy"),
    }
    return digits_fast.recipe().model_copy(update=own | changes)


def ours(options: argparse.Namespace, *, same: bool = False) -> dict[str, Any]:
    """Train lehr's recipe for it."""
    import lehr
    from lehr.base.settings import override

    with tempfile.TemporaryDirectory() as folder:
        given = recipe(options, same=same).model_copy(update={"seed": options.seed})
        trainer = lehr.Trainer(override(given, options.set), run_dir=f"{folder}/run")
        loop, batches, seconds = trainer.loop, trainer.batches(), None
        for batch in batches:
            trainer.step(batch)
            accuracy = loop.scores.best or 0.0
            if accuracy >= options.accuracy:
                seconds = loop.clock.train_seconds
                trainer.stop("reached")
                break
        batches.close()
    return {"seconds": seconds, "epochs": loop.clock.step / loop.loader.steps_per_epoch, "accuracy": accuracy}


ARMS = {"plain": plain, "ours": ours, "same": functools.partial(ours, same=True)}


def rows(options: argparse.Namespace) -> list[common.Row]:
    """Measure all, seed by seed in turn, each run in a process of its own."""
    taken: dict[str, list[float]] = {name: [] for name in ARMS}
    for seed in range(1 if options.quick else options.seeds):
        for arm in list(ARMS) if seed % 2 == 0 else reversed(ARMS):
            command = [sys.executable, __file__, "--arm", arm, "--seed", str(seed), "--accuracy", str(options.accuracy)]
            command += ["--cifar", str(options.cifar)] if options.cifar else []
            command += [word for setting in options.set for word in ("--set", setting)]
            threads = {"OMP_NUM_THREADS": str(options.threads)}
            done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{arm}, seed {seed}, failed:\n{done.stderr[-2000:]}")
            found = json.loads(done.stdout.strip().splitlines()[-1])
            print(f"{arm}, seed {seed}: {found}", file=sys.stderr, flush=True)
            if found["seconds"] is None and arm == "plain":
                raise SystemExit(f"the plain loop came to {found['accuracy']:.1%} only; choose a lower --accuracy")
            taken[arm].append(math.inf if found["seconds"] is None else found["seconds"])
    what = f"{'color pictures' if options.cifar else 'digits'} to {options.accuracy:.0%}"
    names = {"plain": "plain loop", "ours": "lehr", "same": "lehr with the plain loop's network"}
    found_rows = [common.Row(what=f"{what}: {names[arm]}, s", measured=statistics.median(taken[arm])) for arm in ARMS]
    for arm, target in (("ours", THIRD), ("same", None)):
        ratio, low, high = common.ratios(taken, arm, "plain")
        met = None if target is None else ratio <= target
        row = common.Row(
            what=f"{what}: {names[arm]} / plain", measured=ratio, target=target, met=met, spread=(low, high)
        )
        found_rows.append(row)
    return found_rows


def main() -> None:
    """Measure, or be one side of what is measured."""
    options = common.parser(__doc__ or "")
    options.add_argument("--cifar", type=Path, help="a file of color pictures, in place of the digits")
    options.add_argument("--accuracy", type=float)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--set", action="append", default=[], help="a change of lehr's recipe")
    options.add_argument("--arm", choices=list(ARMS), help=argparse.SUPPRESS)
    options.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    given = options.parse_args()
    given.accuracy = given.accuracy or (CIFAR if given.cifar else DIGITS)
    if given.arm:
        print(json.dumps(ARMS[given.arm](given)))
        return
    common.finish(rows(given), given)


if __name__ == "__main__":
    main()
