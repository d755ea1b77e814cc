"""What layers of two factors gain, forward and backward, on one thread: timed, and as the model of costs expects it.

OMP_NUM_THREADS=1 python benchmarks/lowrank_layers.py
"""

from __future__ import annotations

import common
import torch

from lehr.lowrank.cost import Machine, flops, measured_gain, modelled_gain, rank_for_ratio, rounded

TOKENS = 4096
TARGET = 5.0
CLAIMED = 5.1
"""The guide's figure for 10 %; its text also says 5-10x. It counts the operations of a square layer."""
SHAPES = ((256, 256), (1024, 256), (1024, 1024), (3072, 768), (768, 3072))
RATIOS = (0.1, 0.25, 0.5)


def named() -> list[common.Row]:
    """The guide's feed-forward layer at 10 %, with its rank as it is and rounded to the next multiple of 16."""
    rank = rank_for_ratio(3072, 768, 0.1)
    rows = []
    for chosen, how in ((rank, "10 %"), (rounded(rank, 16), "10 % rounded to 16")):
        gain = measured_gain(3072, 768, chosen, TOKENS, repeats=15)
        rows.append(
            common.Row(
                what=f"768x3072, rank {chosen} ({how}), {TOKENS} tokens: times faster; the guide says",
                measured=gain.median,
                reference=CLAIMED,
                target=TARGET,
                met=gain.median >= TARGET,
                spread=(gain.lowest, gain.highest),
            )
        )
    return rows


def layers(*, repeats: int, tokens: int, machine: Machine) -> list[common.Row]:
    """Each shape at each ratio: timed, beside what the model of costs expects of this machine."""
    rows = []
    for out_features, in_features in SHAPES:
        for ratio in RATIOS:
            rank = rank_for_ratio(out_features, in_features, ratio)
            sizes = (out_features, in_features, rank, tokens)
            gain = measured_gain(*sizes, repeats=repeats)
            fewer = sum(flops(out_features, in_features, 1)) / sum(flops(out_features, in_features, 1, rank))
            rows.append(
                common.Row(
                    what=f"{in_features}x{out_features}, rank {rank} ({ratio:.0%}, {fewer:.1f}x fewer FLOPs); modelled",
                    measured=gain.median,
                    reference=modelled_gain(*sizes, machine=machine),
                    spread=(gain.lowest, gain.highest),
                )
            )
    return rows


def few_tokens(*, repeats: int, machine: Machine) -> list[common.Row]:
    """The same layer with ever fewer positions: where two thin products stop being faster than one."""
    rows = []
    for tokens in (1, 16, 256):
        gain = measured_gain(256, 256, 25, tokens, repeats=repeats)
        rows.append(
            common.Row(
                what=f"256x256, rank 25, {tokens} tokens; modelled",
                measured=gain.median,
                reference=modelled_gain(256, 256, 25, tokens, machine=machine),
                spread=(gain.lowest, gain.highest),
            )
        )
    return rows


def gains(*, quick: bool = False) -> list[common.Row]:
    """All rows; with ``quick`` fewer positions and repeats."""
    machine = Machine.measured()
    measured = [
        common.Row(what="machine: GFLOP/s of a large product", measured=machine.flops_per_second / 1e9),
        common.Row(what="machine: GB/s into fresh memory", measured=machine.bytes_per_second / 1e9),
        common.Row(what="machine: us per call under autograd", measured=machine.call_seconds * 1e6),
    ]
    if quick:
        return [*measured, *layers(repeats=3, tokens=512, machine=machine)]
    return [
        *named(),
        *layers(repeats=9, tokens=TOKENS, machine=machine),
        *few_tokens(repeats=15, machine=machine),
        *measured,
    ]


def main() -> None:
    options = common.parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    common.finish(gains(quick=options.quick), options)


if __name__ == "__main__":
    main()
