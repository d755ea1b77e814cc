"""Layers of a model in training as two factors: which ranks, what the loss says to it, what the optimizer keeps."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lehr.base import seeds
from lehr.base.errors import LehrWarning, SettingError
from lehr.base.modes import evaluation_mode
from lehr.base.protocols import Batch, Method, RunContext
from lehr.base.tensors import in_full
from lehr.dist.collectives import any_rank, sum_over_ranks
from lehr.dist.ranks import Ranks
from lehr.lowrank import Candidate, LowRankLinear, candidates, exchange, second_moments, split_attention
from lehr.lowrank.inputs import Forward, look_at_inputs, positions
from lehr.optim.carry import factor_states
from lehr.training.evaluate import evaluate

__all__ = [
    "Exchanged",
    "Layers",
    "calibration_batches",
    "carried",
    "chosen_layers",
    "factored",
    "forward_of",
    "harmless",
    "input_moments",
    "input_positions",
    "linears",
    "multiple_of",
    "probe_loss",
    "put_in_place",
    "selection",
    "shapes_of",
    "state_of",
    "weight_gradients",
]

Layers = Mapping[str, nn.Module]
"""The layers that are to be put into a model, by the names of those that they are for."""


class Exchanged(Method):
    """A method that has exchanged layers when it was built, and has nothing left to do."""

    changes = frozenset({"layers"})


def selection(
    context: RunContext, include: Sequence[str] | None, exclude: Sequence[str], *, frozen: bool = False
) -> list[Candidate]:
    """Return what can be said of each layer, once the projections of attention are layers of their own.

    Layers that ``include`` names are taken also where they are small, or the first or the last one.
    """
    split_attention(context.model, put=context.structure.put)
    if include is None:
        return candidates(context.model, exclude=exclude, frozen=frozen)
    return candidates(context.model, include=include, exclude=exclude, frozen=frozen, min_size=2, first_and_last=True)


def chosen_layers(
    context: RunContext, by: str, include: Sequence[str] | None, exclude: Sequence[str], *, frozen: bool = False
) -> list[str]:
    """Return the names of the linear layers that ``by`` replaces; none is an error that says why not."""
    found = selection(context, include, exclude, frozen=frozen)
    names = [c.name for c in found if c.reason is None and c.kind == "linear"]
    if not names:
        reasons = "; ".join(f"{c.name}: {c.reason or 'it is a convolution'}" for c in found[:6])
        raise SettingError(f"{by} finds no layer of {type(context.model).__name__} to replace ({reasons or 'none'})")
    return names


def linears(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Linear]:
    """Return the named layers that are dense."""
    found = {name: model.get_submodule(name) for name in names}
    return {name: layer for name, layer in found.items() if isinstance(layer, nn.Linear)}


def factored(model: nn.Module, names: Iterable[str]) -> dict[str, LowRankLinear]:
    """Return the named layers that are two factors."""
    found = {name: model.get_submodule(name) for name in names}
    return {name: layer for name, layer in found.items() if isinstance(layer, LowRankLinear)}


def shapes_of(layers: Mapping[str, nn.Linear]) -> dict[str, tuple[int, int]]:
    """Return (out, in) of each layer."""
    return {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}


def multiple_of(shapes: Mapping[str, tuple[int, int]]) -> int:
    """Return what ranks are to be a multiple of: 8, which matrix units like, but for small layers.

    >>> multiple_of({"up": (256, 64)}), multiple_of({"up": (256, 64), "gate": (64, 8)})
    (8, 1)
    """
    return 8 if all(min(shape) >= 64 for shape in shapes.values()) else 1


def calibration_batches(context: RunContext, limit: int, by: str) -> list[Batch]:
    """Return ``limit`` training batches, and one for each process at least, but for those whose loss is not finite.

    Those are warned of. Raises `SettingError` on all processes where one of them has none left.
    """
    kept, bad = [], 0
    with seeds.isolated_global_generators(), evaluation_mode(context.model), torch.no_grad():
        for batch in context.batches(max(limit, context.world)):
            with context.autocast():
                total, _ = context.objective(context.model, batch)
            if total.isfinite():
                kept.append(batch)
            else:
                bad += 1
    if any_rank(not kept, Ranks(context.rank, context.world), next(context.model.parameters()).device):
        raise SettingError(
            f"{by} finds no training batch with a finite loss to measure on ({bad} were not finite); see to the data, "
            "or look at more with batches="
        )
    if bad:
        warnings.warn(f"{by} leaves {bad} training batches out, whose loss is not finite", LehrWarning, stacklevel=2)
    return kept


def probe_loss(context: RunContext, batches: Iterable[Batch]) -> float:
    """Return the mean loss on ``batches`` in evaluation mode, over all processes."""
    device = next(context.model.parameters()).device
    ranks = Ranks(context.rank, context.world)
    with seeds.isolated_global_generators():
        return evaluate(
            context.model, context.objective, batches, autocast=context.autocast, ranks=ranks, device=device
        )["loss"]


def input_moments(context: RunContext, names: Sequence[str], batches: Iterable[Batch]) -> dict[str, torch.Tensor]:
    """Return the second moments of what enters the named layers, over all processes."""
    ranks = Ranks(context.rank, context.world)
    forward = forward_of(context)
    return second_moments(context.model, names, batches, forward, sum_over=lambda value: sum_over_ranks(value, ranks))


def input_positions(context: RunContext, names: Sequence[str], batches: Iterable[Batch]) -> dict[str, float]:
    """Return how many vectors each named layer multiplies by its matrix, over all processes; 0 for one never run."""
    device = next(context.model.parameters()).device
    counts = torch.zeros(len(names), dtype=torch.float64, device=device)
    place = {name: index for index, name in enumerate(names)}

    def count(name: str, layer: nn.Module, x: torch.Tensor) -> None:
        counts[place[name]] += positions(layer, x)

    look_at_inputs(context.model, names, batches, forward_of(context), count)
    return dict(zip(names, sum_over_ranks(counts, Ranks(context.rank, context.world)).tolist(), strict=True))


def forward_of(context: RunContext) -> Forward:
    """Return what runs the model on a batch as training does."""

    def forward(batch: Batch) -> None:
        with context.autocast():
            context.objective(context.model, batch)

    return forward


@contextlib.contextmanager
def put_in_place(model: nn.Module, layers: Layers) -> Iterator[None]:
    """Let the model have ``layers`` within a block; no optimizer hears of it.

    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> with put_in_place(model, {"0": nn.Identity()}):
    ...     model[0]
    Identity()
    >>> model[0]
    Linear(in_features=2, out_features=2, bias=True)
    """
    own = {name: model.get_submodule(name) for name in layers}
    for name, layer in layers.items():
        exchange(model, name, layer)
    try:
        yield
    finally:
        for name, layer in own.items():
            exchange(model, name, layer)


def harmless(
    model: nn.Module, layers: Layers, loss: Callable[[], float], allowed: float
) -> tuple[dict[str, nn.Module], float, float]:
    """Return those of ``layers`` that raise the loss by no more than the share ``allowed``, the loss before and after.

    Where all of them together raise it more, each is tried alone, and those that do the most harm are left out until
    the rest is within the limit. A loss that is not finite is over any limit.

    >>> model = nn.Sequential(nn.Identity(), nn.Identity())
    >>> loss = lambda: 1 + sum(isinstance(module, nn.ReLU) for module in model) + 0.01 * isinstance(model[0], nn.Tanh)
    >>> kept, before, after = harmless(model, {"0": nn.Tanh(), "1": nn.ReLU()}, loss, 0.1)
    >>> list(kept), before, after
    (['0'], 1.0, 1.01)
    """
    before = loss()
    limit = before + allowed * abs(before)
    kept = dict(layers)
    with put_in_place(model, kept):
        after = loss()
    if after <= limit:
        return kept, before, after
    harm: dict[str, float] = {}
    for name in layers:
        with put_in_place(model, {name: layers[name]}):
            alone = loss()
        harm[name] = alone - before if math.isfinite(alone) else math.inf
    worst = sorted(layers, key=lambda name: -harm[name])
    while worst and not after <= limit:
        del kept[worst.pop(0)]
        while worst and sum(max(harm[name], 0.0) for name in kept) > 2 * (limit - before):
            del kept[worst.pop(0)]  # hopeless by their sum, which saves a forward pass each
        with put_in_place(model, kept):
            after = loss()
    return kept, before, after


def weight_gradients(context: RunContext, names: Sequence[str], batches: Iterable[Batch]) -> dict[str, torch.Tensor]:
    """Return the gradient (out, in) of the mean loss for the matrix of each named layer, formed or not.

    The product of what enters the layer and of what comes back to it, summed over positions and processes. The
    parameters' own gradients stay what they were.
    """
    ranks = Ranks(context.rank, context.world)
    gradients: dict[str, torch.Tensor] = {}
    counts = 0.0

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...], torch.Tensor], None]:
        def forward_hook(layer: nn.Module, given: tuple[Any, ...], output: torch.Tensor) -> None:
            x = in_full(given[0].detach()).reshape(-1, given[0].shape[-1])

            def backward_hook(gradient: torch.Tensor) -> None:
                product = in_full(gradient).reshape(-1, gradient.shape[-1]).mT @ x
                gradients[name] = gradients[name] + product if name in gradients else product

            output.register_hook(backward_hook)  # type: ignore[no-untyped-call]

        return forward_hook

    with contextlib.ExitStack() as stack:
        stack.enter_context(seeds.isolated_global_generators())
        for name in names:
            stack.callback(context.model.get_submodule(name).register_forward_hook(watch(name)).remove)
        stack.enter_context(evaluation_mode(context.model))
        stack.enter_context(torch.enable_grad())
        for batch in batches:
            with context.autocast():
                total, count = context.objective(context.model, batch)
            torch.autograd.grad(total, [p for p in context.model.parameters() if p.requires_grad], allow_unused=True)
            counts += float(count)
    everything = sum_over_ranks(torch.tensor(counts, device=next(context.model.parameters()).device), ranks)
    return {name: sum_over_ranks(gradients[name], ranks) / everything for name in names if name in gradients}


def carried(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], layers: Layers) -> dict[str, dict[str, Any]]:
    """Return the optimizers' state of the factors in ``layers`` that follows from that of the present matrices.

    By the names that the factors are to have; layers of which nothing is known are left out.
    """
    states: dict[str, dict[str, Any]] = {}
    for name, dense in linears(model, layers).items():
        layer, known = layers[name], state_of(dense.weight, optimizers)
        if not isinstance(layer, LowRankLinear) or not known:
            continue
        for factor, state in zip("UV", factor_states(known, layer.U, layer.V), strict=True):
            if state:
                states[f"{name}.{factor}"] = state
    return states


def state_of(parameter: torch.Tensor, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """Return what the optimizers keep of a parameter; empty where that is nothing."""
    return next((dict(o.state[parameter]) for o in optimizers if parameter in o.state), {})
