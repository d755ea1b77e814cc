"""Low rank in one table: factorization, layers, progressive training, optimizer state; the guide's figures beside ours.

python benchmarks/lowrank.py --record lowrank
python benchmarks/lowrank.py --only matrices --only layers
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import common

Part = Callable[[argparse.Namespace], list[common.Row]]


def matrices(options: argparse.Namespace) -> list[common.Row]:
    import lowrank_matrices

    return lowrank_matrices.rows(options.quick)


def bounds(options: argparse.Namespace) -> list[common.Row]:
    import lowrank_matrices

    return lowrank_matrices.bounds(lowrank_matrices.QUICK if options.quick else lowrank_matrices.FULL)


def layers(options: argparse.Namespace) -> list[common.Row]:
    import lowrank_layers

    return lowrank_layers.gains(quick=options.quick)


def optimizer(options: argparse.Namespace) -> list[common.Row]:
    import lowrank_optimizer

    with tempfile.TemporaryDirectory() as folder:
        return lowrank_optimizer.rows(Path(folder), quick=options.quick)


def gpt_text(options: argparse.Namespace) -> list[common.Row]:
    import lowrank_training

    return lowrank_training.gpt_text(options)


def translate_512(options: argparse.Namespace) -> list[common.Row]:
    import lowrank_training

    return lowrank_training.translate(options, 512)


def translate_256(options: argparse.Namespace) -> list[common.Row]:
    import lowrank_training

    return lowrank_training.translate(options, 256)


def times_512(options: argparse.Namespace) -> list[common.Row]:
    import lowrank_training

    return lowrank_training.times_512(options)


def plans(options: argparse.Namespace) -> list[common.Row]:
    import lowrank_training

    return lowrank_training.plans(options)


def factor_rates(options: argparse.Namespace) -> list[common.Row]:
    import lowrank_training

    return lowrank_training.factor_rates(options)


PARTS: dict[str, Part] = {
    "matrices": matrices,
    "bounds": bounds,
    "layers": layers,
    "optimizer": optimizer,
    "gpt-text": gpt_text,
    "translate-512": translate_512,
    "translate-256": translate_256,
    "translate-512-times": times_512,
    "plans": plans,
    "factor-rates": factor_rates,
}


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that are started
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=list(PARTS), help="one part; may be given several times")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    rows = [row for name in options.only or PARTS for row in PARTS[name](options)]
    common.finish(rows, options)


if __name__ == "__main__":
    main()
