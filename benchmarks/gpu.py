"""On a CUDA device: GPT-2 124M beside a plain compiled loop in bf16, then the other benchmarks on the same device.

python benchmarks/gpu.py --record gpu
python benchmarks/gpu.py --device cpu --quick   # tries the script where there is no such device

Both train the same model on the same random tokens, 16 windows of 1024 a microbatch: forward and backward pass
compiled, autocast to bf16, torch's flash attention, the fused AdamW, gradients clipped. Numbers are tokens a second and
the share of the device's peak in bf16 that the model's own products make up: 6 for each parameter and token, and 12 for
each layer, position looked back on and element of the width.

Its figures come from whoever has a device: it was tried on a CPU only.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

MICROBATCH, ACCUMULATE, VOCABULARY = 16, 4, 50257
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12, "RTX 3090": 71e12}
"""Operations a second in bf16 without sparsity, by a part of the device's name; from the vendor's data sheets."""
TARGET = 1.0
"""Tokens a second over the plain loop's."""
OTHERS = ("vision", "base_case", "time_to_loss", "watched", "levers")


def recipe(tokens: Path, options: argparse.Namespace) -> Any:
    """Return lehr's recipe of it, without its schedule's length and without dropout, as the plain loop has none."""
    from lehr.recipes import gpt2_124m

    made = gpt2_124m.recipe()
    size = {"depth": 2, "width": 64, "heads": 2} if options.quick else {}
    return made.model_copy(
        update={
            "model": made.model.model_copy(update={"dropout": 0.0, **size}),
            "data": made.data.model_copy(
                update={"path": tokens, "context": options.context, "batch_size": MICROBATCH * ACCUMULATE}
            ),
            "accumulate": ACCUMULATE,
            "compile": True,
            "steps": 100_000,
            "device": options.device,
        }
    )


def ours(tokens: Path, folder: Path, options: argparse.Namespace) -> tuple[Callable[[int], None], Any]:
    """Return what makes so many updates with lehr, and the model."""
    import lehr
    from lehr.measurement.arm import measurable

    trainer = lehr.Trainer(measurable(recipe(tokens, options)), run_dir=folder / "run")
    batches = trainer.batches()

    def updates(many: int) -> None:
        for _ in range(many):
            trainer.step(next(batches))

    return updates, trainer.model


def plain(tokens: Path, options: argparse.Namespace) -> Callable[[int], None]:
    """Return what makes so many updates of a plain loop."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    made = recipe(tokens, options)
    model = made.model.build({"vocab_size": VOCABULARY, "context": options.context}).to(options.device)
    compiled = torch.compile(model)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=True)
    text = np.memmap(tokens, dtype=np.uint16, mode="r")
    step = 0

    def microbatch() -> tuple[Any, Any]:
        starts = torch.randint(len(text) - options.context, (MICROBATCH,)).tolist()
        windows = np.stack([text[i : i + options.context + 1] for i in starts]).astype(np.int64)
        both = torch.from_numpy(windows)
        both = both.pin_memory().to(options.device, non_blocking=True) if options.device == "cuda" else both
        return both[:, :-1], both[:, 1:]

    def updates(many: int) -> None:
        nonlocal step
        for _ in range(many):
            for group in optimizer.param_groups:
                group["lr"] = 6e-4 * min(1.0, (step + 1) / 2000)
            for _ in range(ACCUMULATE):
                x, y = microbatch()
                with torch.autocast(options.device, dtype=torch.bfloat16):
                    scores = compiled(x)
                    loss = F.cross_entropy(scores.flatten(0, 1), y.flatten())
                (loss / ACCUMULATE).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1

    return updates


def peak(options: argparse.Namespace) -> float:
    """Return the device's operations a second, or NaN where they are not known."""
    import torch

    if options.peak:
        return float(options.peak * 1e12)
    name = torch.cuda.get_device_name() if options.device == "cuda" else ""
    return next((of for part, of in PEAK.items() if part in name), math.nan)


def rows(options: argparse.Namespace) -> list[common.Row]:
    """Measure both in turn."""
    import numpy as np
    import torch

    chunk, repeats = (1, 2) if options.quick else (10, 9)
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.bin"
        many = 10_000 if options.quick else 20_000_000
        np.random.default_rng(0).integers(0, VOCABULARY, many, dtype=np.uint16).tofile(tokens)
        lehr_updates, model = ours(tokens, Path(folder), options)
        runs = {"plain compiled loop": plain(tokens, options), "lehr": lehr_updates}
        for run in runs.values():
            run(2)  # compiles

        def timed(run: Callable[[int], None]) -> Callable[[], float]:
            def seconds() -> float:
                started = time.perf_counter()
                run(chunk)
                if options.device == "cuda":
                    torch.cuda.synchronize()
                return (time.perf_counter() - started) / chunk

            return seconds

        taken = common.alternate({name: timed(run) for name, run in runs.items()}, repeats)
    parameters = sum(p.numel() for p in model.parameters())
    layers = len(model.blocks)
    width = model.blocks[0].norm1.normalized_shape[0]
    per_token = 6 * parameters + 12 * layers * width * options.context
    update = MICROBATCH * ACCUMULATE * options.context
    found = []
    for name, seconds in taken.items():
        speeds = [update / s for s in seconds]
        found.append(
            common.Row(
                what=f"GPT-2, {name}: tokens a second",
                measured=statistics.median(speeds),
                spread=(min(speeds), max(speeds)),
            )
        )
        share = statistics.median(speeds) * per_token / peak(options)
        found.append(common.Row(what=f"GPT-2, {name}: share of the device's peak", measured=share))
    ratio, low, high = common.ratios(taken, "plain compiled loop", "lehr")
    met = ratio >= TARGET
    row = common.Row(what="GPT-2: lehr / plain", measured=ratio, target=TARGET, met=met, spread=(low, high))
    return [*found, row]


def main() -> None:
    """Run it, and the others after it."""
    import torch

    options = common.parser(__doc__ or "")
    options.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu only tries the script")
    options.add_argument("--context", type=int, default=1024)
    options.add_argument("--peak", type=float, help="the device's peak in bf16, in 10^12 operations a second")
    options.add_argument("--data", type=Path, help="a text for time_to_loss.py; the standard library's if not given")
    options.add_argument("--alone", action="store_true", help="GPT-2 only, not the other benchmarks")
    given = options.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA device, and torch finds none; --device cpu --quick tries it only")
    if given.quick:
        given.context = min(given.context, 64)
    common.finish(rows(given), given)
    for script in () if given.alone or given.device == "cpu" else OTHERS:
        print(f"\n{script}", flush=True)
        command = [sys.executable, str(Path(__file__).with_name(f"{script}.py"))]
        command += ["--quick"] if given.quick else []
        command += ["--data", str(given.data)] if given.data and script == "time_to_loss" else []
        command += ["--record", f"{script.replace('_', '-')}-{given.record}"] if given.record else []
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
