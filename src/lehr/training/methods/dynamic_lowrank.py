"""Dynamic rank: layers of two factors whose rank changes in training."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator
from torch import Tensor, nn

from lehr.base import seeds
from lehr.base.durations import Duration, DurationSetting
from lehr.base.errors import SettingError
from lehr.base.protocols import Method, Place, RunContext
from lehr.base.settings import Settings
from lehr.lowrank import LowRankLinear, Pair, grown, ranks_by_ratio, shrunk
from lehr.optim.carry import grown_state, rotated_state
from lehr.optim.exchange import decay_products
from lehr.training.factoring import chosen_layers, factored, linears, multiple_of, shapes_of, state_of, weight_gradients

__all__ = ["DynamicLowRank"]


class DynamicLowRank(Settings):
    """Layers of two factors from the start, whose rank follows the step.

    Before a rank falls, the factors are turned so that their columns are in the order of the singular values of the
    product: what is cut off is the least that can be. Parameters and what the optimizer keeps of them shrink for real.
    Where a rank rises, the strongest directions of the gradient outside the span are added, with zeros as partners, so
    that the function stays the same.
    """

    levels: tuple[tuple[DurationSetting, float], ...] = (
        (Duration(0), 0.2),
        (Duration(20, "%"), 0.15),
        (Duration(60, "%"), 0.1),
    )
    """From when on which rank, as a share of the smaller side of a layer's matrix; the first from the start on."""
    layers: tuple[str, ...] | None = None
    """Patterns of names of layers to factor, such as ``blocks.*``; all that are large enough if not given."""
    leave: tuple[str, ...] = ()
    """Patterns of names of layers that stay dense."""
    batches: int = Field(default=4, ge=1)
    """Training batches whose gradient gives the directions that are added."""

    @field_validator("levels")
    @classmethod
    def _in_range(cls, levels: tuple[tuple[Duration, float], ...]) -> tuple[tuple[Duration, float], ...]:
        if not levels or levels[0][0].value != 0 or not all(0 < ratio < 1 for _, ratio in levels):
            written = [[str(when), ratio] for when, ratio in levels]
            raise SettingError(
                f"levels={written}: use pairs of when and a share between 0 and 1, the first from 0 on, such as "
                "[['0%', 0.2], ['20%', 0.15]]"
            )
        return levels

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""
        context.structure.change("dynamic_lowrank")
        names = chosen_layers(context, "dynamic_lowrank", self.layers, self.leave)
        steps = [(when.steps(context.run), ratio) for when, ratio in self.levels]
        if [step for step, _ in steps] != sorted({step for step, _ in steps}):
            raise SettingError(
                f"dynamic_lowrank: the levels begin at the steps {[step for step, _ in steps]}; each has to "
                "begin later than the one before"
            )
        return DynamicMethod(context, names, steps, batches=self.batches)


class DynamicMethod(Method):
    """Changes the ranks of one run."""

    changes = frozenset({"layers", "model"})

    def __init__(self, context: RunContext, names: list[str], levels: list[tuple[int, float]], *, batches: int) -> None:
        self._context, self._batches = context, batches
        dense = linears(context.model, names)
        shapes = shapes_of(dense)
        every = multiple_of(shapes)
        found = [(step, ranks_by_ratio(shapes, ratio=ratio, multiple=every, cap=0.999)) for step, ratio in levels]
        self._names = [name for name in names if all(ranks[name] is not None for _, ranks in found)]
        if not self._names:
            raise SettingError("dynamic_lowrank: at these levels no layer has a rank below its break-even; lower them")
        self._levels = [(step, {n: rank for n in self._names if (rank := ranks[n])}) for step, ranks in found]
        first = {name: LowRankLinear.from_linear(dense[name], rank) for name, rank in self._levels[0][1].items()}
        self._pairs: list[tuple[Tensor, Tensor]] = []
        context.structure.follow(self._take_hold)
        context.structure.put(first, frobenius=True)

    def step_end(self, model: nn.Module, place: Place) -> None:
        decay_products(self._context.optimizers, self._pairs)
        for step, ranks in self._levels[1:]:
            if step == place.step:
                self._change(model, ranks, step)

    def _take_hold(self) -> None:
        self._pairs = [(layer.U, layer.V) for layer in factored(self._context.model, self._names).values()]

    def _change(self, model: nn.Module, ranks: Mapping[str, int], step: int) -> None:
        now = factored(model, self._names)
        wanted = {name: rank for name, rank in ranks.items() if rank != now[name].rank}
        rising = [name for name, rank in wanted.items() if rank > now[name].rank]
        gradients = weight_gradients(self._context, rising, self._context.batches(self._batches)) if rising else {}
        layers: dict[str, nn.Module] = {}
        states: dict[str, dict[str, Any]] = {}
        for name, rank in wanted.items():
            old = now[name]
            U, V = old.U.detach(), old.V.detach()
            of_U, of_V = (state_of(factor, self._context.optimizers) for factor in (old.U, old.V))
            if rank < old.rank:
                turned = shrunk(U, V, rank)
                pair = Pair(turned.U, turned.V)
                of_U, of_V = rotated_state(of_U, turned.T_v), rotated_state(of_V, turned.T_u)
            else:
                generator = seeds.generator(self._context.seed, "dynamic rank", name, step)
                pair = Pair(*grown(U, V, rank, gradient=gradients.get(name), generator=generator))
                of_U, of_V = grown_state(of_U, rank), grown_state(of_V, rank)
            layers[name] = LowRankLinear.from_pair(pair, old.bias).train(old.training)
            states |= {f"{name}.{key}": state for key, state in (("U", of_U), ("V", of_V)) if state}
        self._context.structure.put(layers, states, frobenius=True)
        if self._context.rank == 0:
            sizes = sorted(set(wanted.values()))
            print(f"dynamic_lowrank: {len(layers)} layers have the ranks {sizes} from step {step} on", file=sys.stderr)
