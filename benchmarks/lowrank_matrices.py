"""Low-rank factorization against the exact decomposition: errors and speeds, on spectra and on real gradients.

python benchmarks/lowrank_matrices.py

Errors are over the optimum of the same rank (Eckart and Young), in float64; speeds are over
`torch.linalg.svd(full_matrices=False)`, in pairs, on one thread but for the batch. The rank is a tenth of the short
side.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import common
import torch
from torch import Tensor, nn

from lehr.data.opening import training_loader
from lehr.data.text import standard_library
from lehr.lowrank import Decomposition, factorize
from lehr.lowrank.guide import method_1, power_eigh, second_round
from lehr.lowrank.orthonormal import cholesky_qr2
from lehr.lowrank.sketch import Sketch
from lehr.models.gpt import GPTSettings
from lehr.run.assemble import build_model

SIZES = ((256, 256), (1000, 1000), (5000, 256))
COLD, WARM = (9.0, 10.0, 4.0), (25.0, 25.0, 8.0)
CLAIMED_ERROR, CLAIMED_SPEED = 2.0, {(256, 256): 20.0, (1000, 1000): 50.0, (5000, 256): 20.0}
"""What the guide says of its own recipe: "1.1 to 2 times the error", and these speed-ups of its second round."""

Series = dict[str, list[Tensor]]
"""Gradients of successive steps by the name of their weight."""


@dataclass(frozen=True)
class Lengths:
    """How much is measured."""

    repeats: int
    warm_up: int
    steps: int


FULL, QUICK = Lengths(repeats=9, warm_up=40, steps=5), Lengths(repeats=3, warm_up=3, steps=2)


def power_law(m: int, n: int, exponent: float | None, *, seed: int = 0) -> Tensor:
    """Return a matrix with the singular values ``j^-exponent``; independent normals without an exponent."""
    own = torch.Generator().manual_seed(seed)
    if exponent is None:
        return torch.randn(m, n, generator=own)
    k = min(m, n)
    left, right = (torch.linalg.qr(torch.randn(side, k, generator=own).double()).Q for side in (m, n))
    return ((left * torch.arange(1, k + 1).double().pow(-exponent)) @ right.T).float()


def tenth(A: Tensor) -> int:
    return max(1, min(A.shape[-2:]) // 10)


def over_optimum(A: Tensor, made: Tensor, rank: int) -> float:
    """Return ``||A - made||_F`` over the least one, which is at least what float32 rounds away of A."""
    least = torch.linalg.svdvals(A.double())[rank:].norm().clamp_min(torch.finfo(torch.float32).eps * A.double().norm())
    return float((A.double() - made.double()).norm() / least)


def error(A: Tensor, found: Decomposition) -> float:
    return over_optimum(A, (found.U.double() * found.S.double()) @ found.V.double().T, found.rank)


def trained(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], losses: Iterator[Tensor], lengths: Lengths
) -> Series:
    """Train, and return the gradients of the last steps; a fused query-key-value weight counts as three."""
    kept: Series = {}
    for step in range(lengths.warm_up + lengths.steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        next(losses).backward()
        for name, parameter in model.named_parameters():
            if step >= lengths.warm_up and parameter.ndim == 2 and min(parameter.shape) > 64:
                assert parameter.grad is not None
                fused = 3 if re.search(r"qkv|in_proj", name) else 1
                for part, gradient in zip("qkv", parameter.grad.chunk(fused), strict=False):
                    kept.setdefault(f"{name}.{part}" if fused == 3 else name, []).append(gradient.clone())
        for optimizer in optimizers:
            optimizer.step()
    return kept


@functools.cache
def of_recipe(name: str, lengths: Lengths, width: int | None = None) -> Series:
    """Return gradients of a built-in recipe, at another width if given."""
    recipe = importlib.import_module(f"lehr.recipes.{name}").recipe()
    if width is not None:
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"width": width})})
    splits = recipe.data.open()
    model = build_model(recipe, splits)

    def losses() -> Iterator[Tensor]:
        while True:
            for batch in training_loader(splits.train, recipe.data, seed=0):
                total, count = recipe.objective(model, batch)
                yield total / count

    return trained(model, recipe.optim.build(model), losses(), lengths)


@functools.cache
def of_mlp(lengths: Lengths) -> Series:
    """Return gradients of the two 1000x1000 layers of a network that predicts bytes of the standard library."""
    text = torch.frombuffer(bytearray(standard_library()[0][:1_000_000]), dtype=torch.uint8).long()
    torch.manual_seed(0)
    hidden = [layer for _ in range(2) for layer in (nn.ReLU(), nn.Linear(1000, 1000))]
    model = nn.Sequential(nn.Embedding(256, 50), nn.Flatten(), nn.Linear(1000, 1000), *hidden, nn.ReLU())
    model.append(nn.Linear(1000, 256))
    own = torch.Generator().manual_seed(0)

    def losses() -> Iterator[Tensor]:
        while True:
            at = torch.randint(len(text) - 20, (2048,), generator=own)
            windows = text[at.unsqueeze(1) + torch.arange(21)]
            yield nn.functional.cross_entropy(model(windows[:, :20]), windows[:, 20])

    found = trained(model, [torch.optim.AdamW(model.parameters(), lr=1e-3)], losses(), lengths)
    return {name: series for name, series in found.items() if series[0].shape == (1000, 1000)}


@functools.cache
def of_words(lengths: Lengths) -> Series:
    """Return gradients of the 5000x256 embedding and output layer of a GPT on the words of the standard library."""
    words = re.findall(rb"\w+|[^\w\s]", standard_library()[0][:2_000_000])
    counts: dict[bytes, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    known = {word: i for i, word in enumerate(sorted(counts, key=lambda w: (-counts[w], w))[:4999])}
    text = torch.tensor([known.get(word, 4999) for word in words])
    torch.manual_seed(0)
    model = GPTSettings(width=256, depth=1, heads=4).build({"vocab_size": 5000, "context": 128})
    own = torch.Generator().manual_seed(0)

    def losses() -> Iterator[Tensor]:
        while True:
            at = torch.randint(len(text) - 128, (16,), generator=own)
            windows = text[at.unsqueeze(1) + torch.arange(129)]
            yield nn.functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())

    found = trained(model, [torch.optim.AdamW(model.parameters(), lr=1e-3)], losses(), lengths)
    return {name: series for name, series in found.items() if series[0].shape == (5000, 256)}


def of_size(size: tuple[int, int], lengths: Lengths) -> Series:
    """Return successive gradients of one size."""
    if size == (1000, 1000):
        return of_mlp(lengths)
    if size == (5000, 256):
        return of_words(lengths)
    return {n: series for n, series in of_recipe("gpt_text", lengths, 256).items() if series[0].shape == size}


def cold_errors(lengths: Lengths) -> list[common.Row]:
    """The error of one call without a start."""
    rows = []
    for m, n in SIZES:
        for exponent in (0.5, 1.0, 2.0, None):
            A = power_law(m, n, exponent)
            found = [error(A, factorize(A, rank=tenth(A), seed=seed)) for seed in range(3)]
            target = 1.10 if (m, exponent) == (1000, 2.0) else 1.05
            label = "iid" if exponent is None else f"j^-{exponent:g}"
            rows.append(_errors(f"{m}x{n} {label}: error / optimum, cold", found, target))
    for name, series in (
        ("gpt-text at width 256", of_recipe("gpt_text", lengths, 256)),
        ("translate", of_recipe("translate", lengths)),
        ("1000x1000 of an MLP", of_mlp(lengths)),
        ("5000x256 of a GPT on words", of_words(lengths)),
    ):
        found = [error(g[0], factorize(g[0], rank=tenth(g[0]))) for g in series.values()]
        rows.append(_errors(f"gradients, {name}: worst error / optimum, cold", found, 1.05))
    return rows


def _errors(what: str, found: list[float], target: float) -> common.Row:
    worst = max(found)
    return common.Row(what=what, measured=worst, target=target, met=worst <= target, spread=(min(found), worst))


def cold_speeds(lengths: Lengths) -> list[common.Row]:
    """The speed of one call without a start."""
    rows = []
    for size, target in zip(SIZES, COLD, strict=True):
        A = power_law(*size, 0.5)
        calls: dict[str, Callable[[], object]] = {
            "svd": functools.partial(torch.linalg.svd, A, full_matrices=False),
            "lehr": functools.partial(factorize, A, rank=tenth(A)),
        }
        rows.append(_speed(f"{size[0]}x{size[1]}: speed / svd, cold", calls, lengths, target))
    return rows


def _speed(
    what: str, calls: dict[str, Callable[[], object]], lengths: Lengths, target: float | None = None
) -> common.Row:
    for call in calls.values():
        call()
    taken = common.alternate({name: functools.partial(_mean, call) for name, call in calls.items()}, lengths.repeats)
    middle, low, high = common.ratios(taken, "svd", "lehr")
    met = None if target is None else middle >= target
    return common.Row(what=what, measured=middle, target=target, met=met, spread=(low, high))


def _mean(call: Callable[[], object]) -> float:
    """Return the mean seconds of calls that take about 20 ms together, so that short ones are not all noise."""
    first = common.timed(call)
    count = max(1, min(20, int(0.02 / first)))
    return common.timed(lambda: [call() for _ in range(count)]) / count


def warm(lengths: Lengths) -> list[common.Row]:
    """Speeds and errors on the gradients of successive steps, each started from the result of the last."""
    rows = []
    for size, target in zip(SIZES, WARM, strict=True):
        ratios, found = [], []
        series = of_size(size, lengths)
        for gradients in series.values():
            last = started(gradients[0])
            for A in gradients[1:]:
                again = functools.partial(factorize, A, rank=last.rank, start=last)
                exact = functools.partial(torch.linalg.svd, A, full_matrices=False)
                taken = common.alternate({"lehr": lambda c=again: _mean(c), "svd": lambda c=exact: _mean(c)}, 1)
                ratios.append(taken["svd"][0] / taken["lehr"][0])
                last = again()
                found.append(error(A, last))
        label = f"{size[0]}x{size[1]} gradients, warm"
        middle = statistics.median(ratios)
        rows += [
            common.Row(
                what=f"{label}: speed / svd",
                measured=middle,
                target=target,
                met=middle >= target,
                spread=(min(ratios), max(ratios)),
            ),
            _errors(f"{label}: median error / optimum", [statistics.median(found)], 1.15),
            _errors(f"{label}: worst error / optimum", found, 1.3),
            _warm_batch(label, series),
        ]
    return rows


def bounds(lengths: Lengths) -> list[common.Row]:
    """What a warm pass cannot do without, written down plainly: no pass with these parts can be faster than that."""
    rows = []
    for size, target in zip(SIZES, WARM, strict=True):
        A = power_law(*size, 1.0)
        basis = torch.linalg.qr(torch.randn(size[1], tenth(A) + max(10, 36 * tenth(A) // 100))).Q

        def products(A: Tensor = A, basis: Tensor = basis) -> tuple[Tensor, Tensor]:
            Y = A @ basis
            return Y, A.mT @ Y

        def with_spectrum(A: Tensor = A, basis: Tensor = basis) -> Tensor:
            Y, Z = products(A, basis)
            wide_Y, wide_Z = Y.double(), Z.double()
            return torch.linalg.eigh(wide_Z.mT @ wide_Z).eigenvectors @ (wide_Y.mT @ wide_Y)

        svd = functools.partial(torch.linalg.svd, A, full_matrices=False)
        label = f"{size[0]}x{size[1]}, {basis.shape[1]} wide"
        for what, call in (
            ("the two products alone", products),
            ("products, Gram matrices, small spectrum", with_spectrum),
        ):
            row = _speed(f"{label}: {what}: speed / svd; aimed for in all", {"svd": svd, "lehr": call}, lengths)
            rows.append(dataclasses.replace(row, reference=target))
    return rows


def started(A: Tensor) -> Decomposition:
    """Return the first result of a series, with a basis that is about a third wider than the rank."""
    return factorize(A, rank=tenth(A), oversample=max(10, 36 * tenth(A) // 100))


def _warm_batch(label: str, series: Series) -> common.Row:
    """All weights of one size as one batch, against a loop of decompositions."""
    steps = [torch.stack(step) for step in zip(*series.values(), strict=True)]
    last, ratios = started(steps[0]), []
    for A in steps[1:]:
        again = functools.partial(factorize, A, rank=last.rank, start=last)
        taken = common.alternate(
            {"lehr": lambda c=again: _mean(c), "svd": lambda a=A: common.timed(lambda: _loop(a))}, 1
        )
        ratios.append(taken["svd"][0] / taken["lehr"][0])
        last = again()
    spread = (min(ratios), max(ratios))
    return common.Row(
        what=f"{label}, {len(series)} at once: speed / svd", measured=statistics.median(ratios), spread=spread
    )


def _loop(batch: Tensor) -> None:
    for A in batch:
        torch.linalg.svd(A, full_matrices=False)


def batched(lengths: Lengths) -> list[common.Row]:
    """64 matrices in one call, on two threads."""
    A = torch.stack([power_law(256, 256, 0.5, seed=seed) for seed in range(64)])
    calls = {"svd": functools.partial(_loop, A), "lehr": functools.partial(factorize, A, rank=25)}
    torch.set_num_threads(2)
    try:
        return [_speed("64 of 256x256 at once, two threads: speed / svd, cold", calls, lengths, 15.0)]
    finally:
        torch.set_num_threads(1)


def tricks(lengths: Lengths) -> list[common.Row]:
    """The guide's four tricks as options of the kernel, each beside what it replaces, and the orthonormalizations."""
    rows = []
    for size in SIZES:
        A, label = power_law(*size, 1.0), f"{size[0]}x{size[1]} j^-1"
        for sketch in ("sparse_sign", "count"):
            rows += _trick_sketch(A, label, sketch, lengths)
        found = factorize(A, energy=0.95)
        share = float(found.energy)
        rows.append(common.Row(what=f"{label}: rank for 95 % of the true energy (tricks 1, 4)", measured=found.rank))
        rows.append(common.Row(what=f"{label}: share kept at it", measured=share, target=0.95, met=share >= 0.95))
        Y = A @ torch.randn(size[1], tenth(A) + 10, generator=torch.Generator().manual_seed(0))
        qr = {"svd": functools.partial(cholesky_qr2, Y), "lehr": functools.partial(torch.linalg.qr, Y)}
        rows.append(_speed(f"{label}: QR, speed / CholeskyQR2", qr, lengths))
    C = torch.randn(50, 50, generator=torch.Generator().manual_seed(0))
    C = C @ C.T
    own = torch.Generator().manual_seed(0)
    small = {"svd": lambda: torch.linalg.eigh(C), "lehr": lambda: power_eigh(C, 40, own)}
    what = "20 power iterations on 50x50, k 40: speed / eigh (trick 3; the guide says 4)"
    row = _speed(what, small, lengths)
    return [*rows, common.Row(what=what, measured=row.measured, reference=4.0, spread=row.spread)]


def _trick_sketch(A: Tensor, label: str, sketch: Sketch, lengths: Lengths) -> list[common.Row]:
    made = functools.partial(factorize, A, rank=tenth(A))
    speed = _speed(f"{label}: {sketch}, speed / gaussian", {"svd": made, "lehr": lambda: made(sketch=sketch)}, lengths)
    return [
        speed,
        common.Row(what=f"{label}: {sketch}, error / optimum (trick 2)", measured=error(A, made(sketch=sketch))),
    ]


def guide(lengths: Lengths) -> list[common.Row]:
    """The guide's recipe as printed; the reference is what it claims."""
    rows = []
    own = torch.Generator().manual_seed(0)
    for name, recipe in (("method 1", method_1), ("second round", second_round)):
        for size in SIZES:
            A = power_law(*size, 1.0)
            label = f"the guide's {name}, {size[0]}x{size[1]} j^-1"
            found = over_optimum(A, recipe(A, tenth(A), own), tenth(A))
            rows.append(common.Row(what=f"{label}: error / optimum (claimed)", measured=found, reference=CLAIMED_ERROR))
            calls: dict[str, Callable[[], object]] = {
                "svd": functools.partial(torch.linalg.svd, A, full_matrices=False),
                "lehr": functools.partial(recipe, A, tenth(A), own),
            }
            row = _speed(f"{label}: speed / svd (claimed)", calls, lengths)
            claimed = CLAIMED_SPEED[size] if recipe is second_round else None
            rows.append(common.Row(what=row.what, measured=row.measured, reference=claimed, spread=row.spread))
        found = [
            over_optimum(g[0], recipe(g[0], tenth(g[0]), own), tenth(g[0]))
            for g in of_recipe("gpt_text", lengths, 256).values()
        ]
        what = f"the guide's {name}, gradients of gpt-text: median error / optimum (claimed)"
        rows.append(
            common.Row(
                what=what,
                measured=statistics.median(found),
                reference=CLAIMED_ERROR,
                spread=(min(found), max(found)),
            )
        )
    return rows


def rows(quick: bool) -> list[common.Row]:
    """Everything."""
    lengths = QUICK if quick else FULL
    parts = (cold_errors, cold_speeds, warm, batched, tricks, guide)
    return [row for part in parts for row in part(lengths)]


def main() -> None:
    options = common.parser(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    common.finish(rows(options.quick), options)


if __name__ == "__main__":
    main()
