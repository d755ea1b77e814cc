"""Progressive low rank: dense at first, two factors per layer from a step on."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from lehr.base.durations import Duration, DurationSetting, RunLength
from lehr.base.errors import NoEffectWarning, SettingError
from lehr.base.protocols import Method, Place, RunContext
from lehr.base.settings import Settings
from lehr.lowrank import (
    LowRankLinear,
    Settling,
    allocate,
    factorize,
    ranks_by_energy,
    ranks_by_ratio,
    weighted_spectrum,
)
from lehr.training.factoring import (
    calibration_batches,
    carried,
    chosen_layers,
    harmless,
    input_moments,
    input_positions,
    linears,
    multiple_of,
    probe_loss,
    shapes_of,
)

__all__ = ["ProgressiveLowRank"]


class ProgressiveLowRank(Settings):
    """Trains dense layers first, and from a step on the two factors that do nearly the same at less cost.

    The switch comes ``at`` a step, or when the stable ranks of the weights have settled (Cuttlefish, Wang et al. 2023,
    arXiv 2305.02538; Pufferfish, 2103.03936). Ranks are the best under one budget for all layers, by what each
    direction adds to the layer's output (activation-aware: SVD-LLM, 2403.07378). What the optimizer knows of a matrix
    goes over to its factors. Layers that raise the loss too much stay dense.
    """

    exclusive = (("budget", "energy", "ratio"),)

    at: DurationSetting | None = None
    """When to switch; if not given, when the stable ranks have settled."""
    budget: float | None = Field(default=None, gt=0, lt=1)
    """Share of the operations of the chosen layers that they may keep together; 0.3 if nothing else says it."""
    energy: float | None = Field(default=None, gt=0, lt=1)
    """Or: share of each layer's output energy that its rank is to keep."""
    ratio: float | None = Field(default=None, gt=0, lt=1)
    """Or: rank of each layer as a share of the smaller side of its matrix."""
    balance: Literal["activation", "row_norm", "row_sum"] | None = "activation"
    """The norm in which the factors are the best: that of the layer's outputs; None is the truncated SVD."""
    layers: tuple[str, ...] | None = None
    """Patterns of names of layers to factor, such as ``blocks.*``; all that are large enough if not given."""
    leave: tuple[str, ...] = ()
    """Patterns of names of layers that stay dense."""
    batches: int = Field(default=8, ge=1)
    """Training batches on which the layers' inputs and the loss are measured at the switch."""
    allowed: float = Field(default=0.1, gt=0)
    """By which share the loss on those batches may rise at the switch; layers that raise it more stay dense."""
    rewarm: DurationSetting = Duration(0)
    """Over how many updates the rates rise again after the switch."""
    rate: float = Field(default=1.0, gt=0)
    """Factor on all rates after the switch."""
    factor_rate: float = Field(default=1.0, gt=0)
    """Factor on the rates of the factors, where the optimizer does not move their product, as Muon does."""
    decay: Literal["product", "factors"] = "product"
    """What weight decay falls on after the switch: the product of the factors (Frobenius decay), or each factor."""
    tolerance: float = Field(default=0.02, gt=0)
    """Without ``at``: within which share of its size each stable rank has to stay to have settled."""
    window: int = Field(default=4, ge=2)
    """Without ``at``: over how many looks."""
    look: DurationSetting = Duration(2, "%")
    """Without ``at``: how often to look."""
    latest: DurationSetting = Duration(50, "%")
    """Without ``at``: when to switch if they have not settled by then."""

    @model_validator(mode="after")
    def _check(self) -> ProgressiveLowRank:
        given = [name for name in ("budget", "energy", "ratio") if getattr(self, name) is not None]
        if len(given) > 1:
            raise SettingError(f"{' and '.join(given)} each say what the ranks are; give one of them")
        return self

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""
        context.structure.change("progressive_lowrank")
        names = chosen_layers(context, "progressive_lowrank", self.layers, self.leave)
        return ProgressiveMethod(self, context, names)

    def step_of(self, run: RunLength) -> int:
        """Return the step of the switch, or the latest one."""
        when = self.latest if self.at is None else self.at
        step = when.steps(run)
        if not 1 <= step < run.steps:
            name = "latest" if self.at is None else "at"
            raise SettingError(
                f"progressive_lowrank: {name}={when} is step {step}; use one from 1 to {run.steps - 1}, so that some "
                "of the run comes before the switch and some after it"
            )
        return step


class ProgressiveMethod(Method):
    """Makes the switch of one run."""

    changes = frozenset({"layers", "model", "rate"})

    def __init__(self, settings: ProgressiveLowRank, context: RunContext, names: list[str]) -> None:
        self._settings, self._context, self._names = settings, context, names
        self._step = settings.step_of(context.run)
        self._look = max(1, settings.look.steps(context.run))
        self._rewarm = settings.rewarm.steps(context.run)
        self._settling = Settling(window=settings.window, tolerance=settings.tolerance)
        self._switched: int | None = None
        self._report: dict[str, Any] = {}

    def rate_ready(self, factor: float, place: Place) -> float:
        if self._switched is None:
            return factor
        since = place.step - self._switched + 1
        return factor * self._settings.rate * min(1.0, since / self._rewarm if self._rewarm else 1.0)

    def step_end(self, model: nn.Module, place: Place) -> None:
        if self._switched is None and self._is_due(model, place.step):
            self._switch(model, place.step)

    def _is_due(self, model: nn.Module, step: int) -> bool:
        if step >= self._step:
            return True
        if self._settings.at is not None or step % self._look:
            return False
        ranks = {name: quick_stable_rank(layer.weight) for name, layer in linears(model, self._names).items()}
        return self._settling.observe(ranks)

    def _switch(self, model: nn.Module, step: int) -> None:
        """Factor the layers, keep those that do no harm, and carry over what the optimizer knows."""
        settings, context = self._settings, self._context
        batches = calibration_batches(context, settings.batches, "progressive_lowrank")
        tokens = {name: count for name, count in input_positions(context, self._names, batches).items() if count}
        moments = input_moments(context, list(tokens), batches)
        dense = linears(model, tokens)
        ranks = self._ranks(dense, moments, tokens)
        layers = {
            name: LowRankLinear.from_linear(
                dense[name],
                rank,
                balance=settings.balance or "none",
                covariance=moments[name] if settings.balance == "activation" else None,
            )
            for name, rank in ranks.items()
            if rank is not None
        }
        kept, before, after = harmless(model, layers, lambda: probe_loss(context, batches), settings.allowed)
        states = carried(model, context.optimizers, kept)
        frobenius = settings.decay == "product"
        context.structure.put(kept, states, frobenius=frobenius, factor_rate=settings.factor_rate)
        self._switched = step
        self._report = {
            "settings": self._of_switch(),
            "ranks": {name: ranks[name] for name in kept},
            "rolled_back": [name for name in layers if name not in kept],
            "loss": [before, after],
        }
        if context.rank == 0:
            print(self._told(), file=sys.stderr)

    def _told(self) -> str:
        ranks, (before, after) = list(self._report["ranks"].values()), self._report["loss"]
        back, of = len(self._report["rolled_back"]), len(self._names)
        return (
            f"progressive_lowrank: {len(ranks)} of {of} layers are two factors from step {self._switched} on"
            + (f", of rank {min(ranks)} to {max(ranks)}" if ranks else "")
            + f"; loss {before:.4f} before, {after:.4f} after"
            + (f"; {back} stay dense, since they raised it by more than {self._settings.allowed:.0%}" if back else "")
        )

    def _ranks(
        self, dense: Mapping[str, nn.Linear], moments: Mapping[str, Tensor], tokens: Mapping[str, float]
    ) -> dict[str, int | None]:
        settings, shapes = self._settings, shapes_of(dense)
        if settings.ratio is not None:
            return ranks_by_ratio(shapes, ratio=settings.ratio, multiple=multiple_of(shapes))
        spectra = {name: weighted_spectrum(layer.weight.detach(), moments[name]) for name, layer in dense.items()}
        if settings.energy is not None:
            return ranks_by_energy(spectra, shapes, energy=settings.energy, multiple=multiple_of(shapes))
        return allocate(spectra, shapes, budget=settings.budget or 0.3, tokens=tokens, multiple=multiple_of(shapes))

    def _of_switch(self) -> dict[str, Any]:
        """Return the settings that have done their work once the switch is made, in plain values."""
        return self._settings.model_dump(mode="json", exclude={"rate", "rewarm"})

    def state_dict(self) -> dict[str, Any]:
        return {"switched": self._switched, "settling": self._settling.state_dict(), "report": self._report}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self._switched = state["switched"]
        self._settling.load_state_dict(state["settling"])
        self._report = dict(state["report"])
        made, now = self._report.get("settings", {}), self._of_switch()
        if other := [f"{name}={now[name]} (then {value})" for name, value in made.items() if now[name] != value]:
            warnings.warn(
                f"progressive_lowrank: the switch was made at step {self._switched}, so these have no effect any more: "
                f"{', '.join(other)}",
                NoEffectWarning,
                stacklevel=2,
            )


def quick_stable_rank(weight: Tensor) -> float:
    """Return about ``||W||_F^2 / ||W||_2^2``, by a few products instead of all singular values.

    >>> import torch
    >>> round(quick_stable_rank(torch.eye(128)), 3)
    128.0
    """
    weight = weight.detach()
    largest = factorize(weight, rank=1, power=3).S[0].double().square()
    total = weight.double().square().sum()
    return float(total / largest) if largest > 0 else 0.0
