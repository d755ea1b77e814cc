"""Dynamic rank: layers of two factors whose rank changes in training."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator
from torch import Tensor, nn

from lehr.base import seeds
from lehr.base.durations import Duration, DurationSetting, RunLength
from lehr.base.errors import CheckpointError, SettingError
from lehr.base.protocols import Method, Place, RunContext
from lehr.base.settings import Settings
from lehr.lowrank import (
    LowRankLinear,
    Pair,
    energy_rank,
    grown,
    level,
    level_by_energy,
    ranks_by_ratio,
    reorthogonalized,
    shrunk,
    trainable,
)
from lehr.optim.carry import grown_state, rotated_state
from lehr.training.factoring import (
    calibration_batches,
    chosen_layers,
    factored,
    linears,
    multiple_of,
    shapes_of,
    state_of,
    weight_gradients,
)

__all__ = ["DynamicLowRank"]


class DynamicLowRank(Settings):
    """Layers of two factors from the start, whose rank follows the step.

    Before a rank falls, the factors are turned so that their columns are in the order of the singular values of the
    product: what is cut off is the least that can be. Parameters and what the optimizer keeps of them shrink for real.
    Where a rank rises, the strongest directions of the gradient outside the span are added, with zeros as partners, so
    that the function stays the same.
    """

    exclusive = (("levels", "energy"),)

    levels: tuple[tuple[DurationSetting, float], ...] | None = None
    """From when on which rank, as a share of the smaller side of a layer's matrix, the first from the start on; the
    guide's 0.2, 0.15 from 20 % and 0.1 from 60 % of the run, if neither this nor ``energy`` is given."""
    energy: float | None = Field(default=None, gt=0, lt=1)
    """Or: the share of the product's energy that the rank is to keep; each layer then goes its own way."""
    ratios: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.05, 0.1, 0.15, 0.2, 0.3)
    """With ``energy``: the ranks to choose from, as shares; few, since each is compiled. The largest is the first."""
    every: DurationSetting = Duration(5, "%")
    """With ``energy``: how often to look."""
    layers: tuple[str, ...] | None = None
    """Patterns of names of layers to factor, such as ``blocks.*``; all that are large enough if not given."""
    leave: tuple[str, ...] = ()
    """Patterns of names of layers that stay dense."""
    factor_rate: float = Field(default=1.0, gt=0)
    """Factor on the rates of the factors, where the optimizer does not move their product, as Muon does."""
    batches: int = Field(default=4, ge=1)
    """Training batches whose gradient gives the directions that are added."""

    @model_validator(mode="after")
    def _check(self) -> DynamicLowRank:
        if self.levels is not None and self.energy is not None:
            raise SettingError("levels and energy each say what the ranks are; give one of them")
        idle = [name for name in ("ratios", "every") if getattr(self, name) != type(self).model_fields[name].default]
        if self.energy is None and idle:
            raise SettingError(f"{idle[0]} has no effect without energy; give it, such as energy=0.95")
        levels = self.levels or ()
        if self.levels is not None and not (levels and levels[0][0].value == 0 and all(0 < r < 1 for _, r in levels)):
            written = [[str(when), ratio] for when, ratio in levels]
            raise SettingError(
                f"levels={written}: use pairs of when and a share between 0 and 1, the first from 0 on, such as "
                "[['0%', 0.2], ['20%', 0.15]]"
            )
        return self

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""
        context.structure.change("dynamic_lowrank")
        names = chosen_layers(context, "dynamic_lowrank", self.layers, self.leave)
        levels = [(0, max(self.ratios))] if self.energy is not None else self.steps(context.run)
        return DynamicMethod(self, context, names, levels)

    def steps(self, run: RunLength) -> list[tuple[int, float]]:
        """Return the levels with their times in steps.

        >>> DynamicLowRank().steps(RunLength(50))
        [(0, 0.2), (10, 0.15), (30, 0.1)]
        """
        levels = self.levels or ((Duration(0), 0.2), (Duration(20, "%"), 0.15), (Duration(60, "%"), 0.1))
        steps = [(when.steps(run), ratio) for when, ratio in levels]
        if [step for step, _ in steps] != sorted({step for step, _ in steps}):
            raise SettingError(
                f"dynamic_lowrank: the levels begin at the steps {[step for step, _ in steps]}; each has to "
                "begin later than the one before"
            )
        return steps


class DynamicMethod(Method):
    """Changes the ranks of one run."""

    changes = frozenset({"layers", "model"})

    def __init__(
        self, settings: DynamicLowRank, context: RunContext, names: list[str], levels: list[tuple[int, float]]
    ) -> None:
        self._context, self._settings, self._levels = context, settings, levels
        self._starts = {step for step, _ in levels[1:]}
        self._every = max(1, settings.every.steps(context.run))
        dense = linears(context.model, names)
        ratios = {ratio for _, ratio in levels} if settings.energy is None else set(settings.ratios)
        self._ranks = _ranks_below_break_even(shapes_of(dense), sorted(ratios))
        ranks = self._ranks[levels[0][1]]
        self._names = list(ranks)
        first = {name: LowRankLinear.from_linear(dense[name], rank) for name, rank in ranks.items()}
        context.structure.put(first, frobenius=True, factor_rate=settings.factor_rate)

    def run_start(self, model: nn.Module, place: Place) -> None:
        now = factored(model, self._names)
        allowed = {name: {ranks[name] for ranks in self._ranks.values()} for name in self._names}
        other = [n for n in self._names if n not in now or (self._settings.energy and now[n].rank not in allowed[n])]
        if other:
            raise CheckpointError(
                f"dynamic_lowrank: the checkpoint has {other[0]!r} as {model.get_submodule(other[0])}, which does not "
                "fit these settings; resume with the layers and ratios that the run began with"
            )

    def step_end(self, model: nn.Module, place: Place) -> None:
        if self._settings.energy is not None and place.step % self._every == 0:
            self._change(model, self._by_energy(model, self._settings.energy), place.step)
        elif place.step in self._starts:
            self._change(model, self._ranks[level(place.step, self._levels)], place.step)

    def _by_energy(self, model: nn.Module, energy: float) -> dict[str, int]:
        wanted = {}
        for name, layer in factored(model, self._names).items():
            spectrum = reorthogonalized(layer.U.detach(), layer.V.detach()).S
            ranks = sorted({ranks[name] for ranks in self._ranks.values()})
            wanted[name] = level_by_energy(int(energy_rank(spectrum, energy)), layer.rank, ranks)
        return wanted

    def _change(self, model: nn.Module, ranks: Mapping[str, int], step: int) -> None:
        now = factored(model, self._names)
        wanted = {name: rank for name, rank in ranks.items() if rank != now[name].rank}
        rising = [name for name, rank in wanted.items() if rank > now[name].rank]
        gradients: dict[str, Tensor] = {}
        if rising:
            batches = calibration_batches(self._context, self._settings.batches, "dynamic_lowrank")
            gradients = weight_gradients(self._context, rising, batches)
        layers: dict[str, nn.Module] = {}
        states: dict[str, dict[str, Any]] = {}
        for name, rank in wanted.items():
            old = now[name]
            U, V = old.U.detach(), old.V.detach()
            of_U, of_V = (state_of(factor, self._context.optimizers) for factor in (old.U, old.V))
            if rank < old.rank:
                turned = shrunk(U, V, rank)
                pair = trainable(Pair(turned.U, turned.V))
                of_U, of_V = rotated_state(of_U, turned.T_v), rotated_state(of_V, turned.T_u)
            else:
                generator = seeds.generator(self._context.seed, "dynamic rank", name, step)
                pair = Pair(*grown(U, V, rank, gradient=gradients.get(name), generator=generator))
                of_U, of_V = grown_state(of_U, rank), grown_state(of_V, rank)
            layers[name] = LowRankLinear.from_pair(pair, old.bias).train(old.training)
            states |= {f"{name}.{key}": state for key, state in (("U", of_U), ("V", of_V)) if state}
        self._context.structure.put(layers, states, frobenius=True, factor_rate=self._settings.factor_rate)
        if layers and self._context.rank == 0:
            sizes = sorted(set(wanted.values()))
            print(f"dynamic_lowrank: {len(layers)} layers have the ranks {sizes} from step {step} on", file=sys.stderr)


def _ranks_below_break_even(
    shapes: Mapping[str, tuple[int, int]], ratios: Sequence[float]
) -> dict[float, dict[str, int]]:
    """Return the ranks by ratio, of the layers that save by each of them."""
    multiple = multiple_of(shapes)
    found = {ratio: ranks_by_ratio(shapes, ratio=ratio, multiple=multiple, cap=0.999) for ratio in ratios}
    names = [name for name in shapes if all(ranks[name] is not None for ranks in found.values())]
    if not names:
        raise SettingError("dynamic_lowrank: at these ranks no layer is below its break-even; lower them")
    return {ratio: {name: rank for name in names if (rank := ranks[name])} for ratio, ranks in found.items()}
