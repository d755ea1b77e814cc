"""Selective low rank: which layers gain by two factors, at which rank, and what the step gains. Nothing is changed."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.base.modes import evaluation_mode
from lehr.base.protocols import Batch
from lehr.base.seeds import isolated_global_generators
from lehr.base.settings import Settings
from lehr.lowrank.allocate import Ranks, allocate, ranks_by_energy, ranks_by_ratio
from lehr.lowrank.candidates import Candidate, candidates
from lehr.lowrank.cost import Gain, Machine, amdahl, flops, measured_gain, modelled_gain, modelled_seconds, parameters
from lehr.lowrank.covariance import second_moments, weighted_spectrum
from lehr.lowrank.inputs import Forward, look_at_inputs, positions

__all__ = ["Plan", "PlannedLayer", "Selective", "plan"]

Timed = Callable[[int, int, int, int], Gain | None]


class Selective(Settings):
    """Which rank a layer gets, and what it has to gain by it.

    Give one of ``ratio``, ``energy`` and ``budget``; none of them is ``ratio=0.1``.

    >>> Selective(energy=0.9).margin
    1.1
    """

    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = (("ratio", "energy", "budget"),)

    ratio: float | None = Field(default=None, gt=0, le=1)
    """Rank as a share of the smaller side."""
    energy: float | None = Field(default=None, gt=0, le=1)
    """The share of the layer's energy to keep."""
    budget: float | None = Field(default=None, gt=0, le=1)
    """The share of the dense operations that all layers in question may keep together."""
    weighted: bool = True
    """Whether energy counts in the layer's output on these batches, and not in its weight."""
    multiple: int = Field(default=8, ge=1)
    """Ranks are multiples of this."""
    cap: float = Field(default=0.7, gt=0, lt=1)
    """The highest rank, as a share of the break-even rank; a layer that needs more stays dense."""
    margin: float = Field(default=1.1, gt=0)
    """How many times faster than dense a layer has to be; below 1 for what low rank saves beside time."""
    measure: bool = False
    """Whether to time each layer at its rank on this device, instead of asking the model of costs."""

    @model_validator(mode="after")
    def _one_rule(self) -> Selective:
        given = {name: getattr(self, name) for name in ("ratio", "energy", "budget") if getattr(self, name) is not None}
        if len(given) > 1:
            raise SettingError(f"{' and '.join(f'{k}={v:g}' for k, v in given.items())}; give one of them")
        return self


@dataclass(frozen=True, kw_only=True)
class PlannedLayer:
    """What the plan says about one layer."""

    name: str
    shape: tuple[int, int]
    """(out, in); of a kernel as a matrix."""
    tokens: float = 0.0
    """Positions per batch; 0 where it was not looked at."""
    rank: int | None = None
    """The rank that it would get, also where it does not gain by it."""
    modelled: float | None = None
    """How many times faster the model of costs expects it to be."""
    measured: Gain | None = None
    """How many times faster it was."""
    reason: str | None = None
    """Why it stays dense; None: it is chosen."""

    @property
    def gain(self) -> float | None:
        """The measured gain, or else the modelled one."""
        return self.measured.median if self.measured else self.modelled

    def parameters(self) -> tuple[int, int]:
        """Return the parameters of its matrix before and after."""
        return parameters(*self.shape), parameters(*self.shape, self.rank if self.reason is None else None)

    def flops(self) -> tuple[float, float]:
        """Return its operations per batch, forward and backward, before and after."""
        before, after = (
            sum(flops(*self.shape, 1, rank)) for rank in (None, self.rank if self.reason is None else None)
        )
        return self.tokens * before, self.tokens * after

    def seconds(self, machine: Machine) -> float:
        """Return its time as a dense layer per batch, forward and backward."""
        if self.measured:
            return self.measured.dense_seconds
        return modelled_seconds(*self.shape, max(1, round(self.tokens)), machine=machine)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One row per layer, and what they come to; `str` is a table. `low_rank(model, rank=plan.ranks)` carries it out."""

    layers: tuple[PlannedLayer, ...]
    model_parameters: int
    """Of the whole model as it is."""
    machine: Machine
    step_seconds: float | None = None
    """The time of one batch, forward and backward, dense."""

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of each chosen layer."""
        return {layer.name: layer.rank for layer in self.layers if layer.reason is None and layer.rank is not None}

    @property
    def share(self) -> float | None:
        """The share of the step's time that the chosen layers take while they are dense."""
        if self.step_seconds is None:
            return None
        spent = sum(layer.seconds(self.machine) for layer in self.layers if layer.reason is None)
        return min(1.0, spent / self.step_seconds)

    @property
    def gain(self) -> float:
        """How many times faster the chosen layers are, together; 1 without any."""
        chosen = [layer for layer in self.layers if layer.reason is None]
        before = sum(layer.seconds(self.machine) for layer in chosen)
        after = sum(layer.seconds(self.machine) / (layer.gain or 1.0) for layer in chosen)
        return before / after if chosen else 1.0

    @property
    def step_gain(self) -> float | None:
        """How many times faster a step is expected to be, by Amdahl's law; None where its time is not known."""
        return None if self.share is None else amdahl(self.share, self.gain)

    def table(self) -> str:
        """Return the plan as aligned text."""
        width = max(5, *(len(layer.name) for layer in self.layers)) if self.layers else 5
        head = f"{'layer':{width}}  {'shape':>11}  {'tokens':>8}  {'rank':>5}  {'parameters':>21}  "
        lines = [head + f"{'FLOPs':>21}  {'model':>6}  {'timed':>6}  choice"]
        for layer in self.layers:
            size, operations = layer.parameters(), layer.flops()
            shape = f"{layer.shape[0]}x{layer.shape[1]}"
            cells = [f"{layer.name:{width}}", f"{shape:>11}", f"{layer.tokens:>8.0f}"]
            cells += [f"{layer.rank or '':>5}", _change(f"{size[0]}", f"{size[1]}", 21)]
            cells += [_change(f"{operations[0]:.3g}", f"{operations[1]:.3g}", 21)]
            cells += [_times(layer.modelled), _times(layer.measured and layer.measured.median)]
            lines.append("  ".join([*cells, layer.reason or "low rank"]))
        return "\n".join([*lines, *self._totals()])

    def _totals(self) -> list[str]:
        saved = sum(before - after for before, after in (layer.parameters() for layer in self.layers))
        left = self.model_parameters - saved
        operations = [sum(column) for column in zip(*(layer.flops() for layer in self.layers), strict=True)] or [0, 0]
        lines = [
            f"{len(self.ranks)} of {len(self.layers)} layers: {self.gain:.2f} times as fast together",
            f"parameters of the model: {self.model_parameters} to {left} ({left / max(1, self.model_parameters):.1%})",
            f"FLOPs of the layers seen: {operations[0]:.3g} to {operations[1]:.3g} per batch",
        ]
        if self.step_gain is None or self.share is None:
            return [*lines, "the step's gain is not known without its time (step_seconds=, or measure=True)"]
        return [*lines, f"they take {self.share:.0%} of the step, which is expected {self.step_gain:.2f} times as fast"]

    __str__ = table


def plan(
    model: nn.Module,
    batches: Iterable[Batch],
    selective: Selective | None = None,
    *,
    forward: Forward | None = None,
    found: Sequence[Candidate] | None = None,
    step_seconds: float | None = None,
) -> Plan:
    """Return which layers would gain by low rank, from what the batches lead through them; the model stays as it is.

    A layer is chosen when its expected gain, forward and backward, at its rank and its number of positions is over
    ``selective.margin``: by a model of costs of a CPU thread, or with ``measure`` by timing it here, also the figures
    of the model. A threshold on out x in says nothing of that: two thin products lose to one where calls take the time.
    Layers that a rule of `candidates` keeps (embeddings, tied and small ones, the first and the last) are listed with
    their reason; ``found`` is the result of a call of it with other settings.

    ``batches`` are of the size of a training step's. ``forward(batch)`` runs the model; without it, the model gets the
    batch, or its first element. ``step_seconds`` is the time of a training step on such a batch; with ``measure`` and
    without it, three times the forward pass is taken. What a layer under a ``budget`` keeps that does not gain by its
    rank, and so stays dense, comes on top of that budget. A convolution is taken for the product with its unfolded
    input, which is a rough figure.

    Cost: one forward pass per batch; with ``energy`` or ``budget`` one more, and the singular values of each layer.

    >>> model = nn.Sequential(nn.Linear(16, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 4))
    >>> found = plan(model, [torch.zeros(1024, 16)], Selective(ratio=0.1))
    >>> found.ranks, found.layers[0].reason
    ({'2': 48}, 'its smaller side is below min_size=128')
    """
    batches, selective = list(batches), selective or Selective()
    if step_seconds is not None and not step_seconds > 0:
        raise SettingError(f"step_seconds={step_seconds:g} for a training step; use more than 0, or leave it out")
    if not batches:
        raise SettingError("a plan was asked for without batches; give one or more, of the size of a training step's")
    run = forward or (lambda batch: model(batch[0] if isinstance(batch, tuple | list) else batch))
    found = candidates(model) if found is None else found
    open_to_it = [candidate.name for candidate in found if candidate.reason is None]
    seen = dict.fromkeys(open_to_it, 0)
    like = torch.empty(0)

    def count(name: str, module: nn.Module, x: Tensor) -> None:
        nonlocal like
        seen[name] += positions(module, x)
        like = torch.empty(0, dtype=_computed_in(x), device=x.device)

    look_at_inputs(model, open_to_it, batches, run, count)
    tokens = {name: total / len(batches) for name, total in seen.items() if total}
    shapes = {candidate.name: candidate.shape for candidate in found if candidate.name in tokens}
    ranks = _ranks(model, shapes, tokens, selective, (batches, run))
    machine = Machine.measured(like) if selective.measure else Machine()

    @functools.cache  # many layers are of one size
    def timed(m: int, n: int, rank: int, tokens: int) -> Gain | None:
        return measured_gain(m, n, rank, tokens, like=like) if selective.measure else None

    if selective.measure and step_seconds is None:
        step_seconds = 3 * _forward_seconds(model, batches, run)
    return Plan(
        layers=tuple(_planned(c, tokens.get(c.name, 0.0), ranks.get(c.name), selective, machine, timed) for c in found),
        model_parameters=sum(parameter.numel() for parameter in model.parameters()),
        machine=machine,
        step_seconds=step_seconds,
    )


def _computed_in(x: Tensor) -> torch.dtype:
    """Return the type that a product with ``x`` has at this place, which autocast may say."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def _ranks(
    model: nn.Module,
    shapes: dict[str, tuple[int, int]],
    tokens: dict[str, float],
    selective: Selective,
    data: tuple[list[Batch], Forward],
) -> Ranks:
    multiple, cap = selective.multiple, selective.cap
    if selective.energy is None and selective.budget is None:
        return ranks_by_ratio(shapes, ratio=selective.ratio or 0.1, multiple=multiple, cap=cap)
    moments = second_moments(model, shapes, *data) if selective.weighted else {}
    weights = {name: model.get_parameter(f"{name}.weight") for name in shapes}
    spectra = {name: weighted_spectrum(weight, moments.get(name)) for name, weight in weights.items()}
    if selective.budget is not None:
        return allocate(spectra, shapes, budget=selective.budget, tokens=tokens, multiple=multiple, cap=cap)
    return ranks_by_energy(spectra, shapes, energy=selective.energy or 1.0, multiple=multiple, cap=cap)


def _planned(
    candidate: Candidate, tokens: float, rank: int | None, selective: Selective, machine: Machine, timed: Timed
) -> PlannedLayer:
    def layer(reason: str | None, modelled: float | None = None, measured: Gain | None = None) -> PlannedLayer:
        return PlannedLayer(
            name=candidate.name,
            shape=candidate.shape,
            tokens=tokens,
            rank=rank,
            modelled=modelled,
            measured=measured,
            reason=reason,
        )

    if candidate.reason is not None:
        return layer(candidate.reason)
    if not tokens:
        return layer("it was never run on these batches")
    if rank is None:
        return layer(f"no rank up to {selective.cap:g} of the break-even rank keeps enough of it")
    sizes = (*candidate.shape, rank, max(1, round(tokens)))
    modelled, measured = modelled_gain(*sizes, machine=machine), timed(*sizes)
    gain = measured.median if measured else modelled
    slow = None if gain > selective.margin else f"{gain:.2f} times as fast is not over margin={selective.margin:g}"
    return layer(slow, modelled, measured)


def _forward_seconds(model: nn.Module, batches: list[Batch], forward: Forward) -> float:
    """Return the shortest time of a forward pass, in evaluation; the first one of each batch only warms up."""
    taken = []
    with isolated_global_generators(), evaluation_mode(model):
        for batch in batches:
            for _ in range(3):
                start = time.perf_counter()
                forward(batch)
                if torch.accelerator.is_available():
                    torch.accelerator.synchronize()
                taken.append(time.perf_counter() - start)
    return min(taken)


def _times(gain: float | None) -> str:
    return f"{'' if gain is None else f'{gain:.2f}x':>6}"


def _change(before: str, after: str, width: int) -> str:
    return f"{before if before == after else f'{before} to {after}':>{width}}"
