"""Any optimizer with its state in a few directions of each matrix: GaLore, Fira, APOLLO, and error feedback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.base.seeds import address
from lehr.base.tables import Row, Table
from lehr.lowrank.projector import (
    Projector,
    channel_scales,
    limited,
    oriented,
    overlap,
    refresh,
    restored,
    rotated,
    rotated_squares,
)
from lehr.optim.adagrad import Adagrad
from lehr.optim.adam import Adam
from lehr.optim.adamw import AdamW
from lehr.optim.base import Grouped
from lehr.optim.carry import FIRST, SECOND
from lehr.optim.groups import owners
from lehr.optim.lion import Lion
from lehr.optim.lists import loss_of
from lehr.optim.muon import hidden_matrices
from lehr.optim.rmsprop import RMSprop
from lehr.optim.rules import freeze
from lehr.optim.sgd import SGD

__all__ = ["INNER", "Projected", "ProjectedOptimizer"]

INNER = Table(
    "inner optimizer",
    [
        Row(name="adamw", make=AdamW, summary="two moments for each projected weight"),
        Row(name="adam", make=Adam, summary="the same; its decay is L2 where it is not projected"),
        Row(name="sgd", make=SGD, summary="a momentum, or nothing, for each projected weight"),
        Row(name="adagrad", make=Adagrad, summary="a sum of squares for each projected weight"),
        Row(name="rmsprop", make=RMSprop, summary="a mean of squares for each projected weight"),
        Row(name="lion", make=Lion, summary="a momentum for each projected weight"),
    ],
)
"""Optimizers that can be put between the projection and the weights: their steps follow from gradients alone, and
their state turns with the basis."""

_SHARED = ("betas", "momentum", "fused")
"""What a group of the projected and one of the inner optimizer have in common: a schedule may cycle the momentum."""
_LONGEST = 8
"""How far lazy refreshing stretches the interval at most, as a multiple."""


def _inner(given: Any) -> Any:
    made = INNER[given].make() if isinstance(given, str) else given
    if not isinstance(made, AdamW | Adam | SGD | Adagrad | RMSprop | Lion):
        raise SettingError(
            f"{made!r} cannot step within a projection; use one of {', '.join(INNER)}, whose steps follow from the "
            "gradients alone and whose state turns with the basis"
        )
    if isinstance(made, SGD) and made.form == "guide":
        raise SettingError(
            "SGD with form=guide keeps the rate in its velocity, which a projection cannot; use form=torch"
        )
    return made


class Projected(Grouped):
    """Settings of an optimizer whose state is kept in a few directions of each matrix, and plain elsewhere.

    Of a matrix's gradient A (s, l), smaller side first, the inner optimizer sees ``R = Q^T A`` (r, l) and steps by N;
    the weights by ``Q N`` and, with ``residual="scaled"``, by what lies outside: ``(A - Q R)`` times
    ``||N_j|| / ||R_j||`` in channel j. Sources: GaLore (Zhao et al. 2024, arXiv 2403.03507), Fira (Chen et al. 2024,
    arXiv 2410.01623), APOLLO (Zhu et al. 2024, arXiv 2412.05270), PowerSGD (Vogels et al. 2019, arXiv 1905.13727).
    Embeddings, biases, norms, the output layer and small matrices are the inner optimizer's own. It saves memory, not
    time. Rules and the decay by layer hold for both.

    >>> model = nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 2))
    >>> [type(optimizer).__name__ for optimizer in Projected().build(model)]
    ['ProjectedOptimizer', 'AdamW']
    """

    lr: float = Field(default=1e-3, gt=0)
    """The base rate of the projected matrices; GaLore's alpha is its ratio to the inner one."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled decay of the projected matrices, whatever the inner optimizer is."""
    inner: Annotated[Grouped, BeforeValidator(_inner)] = AdamW()
    """What steps within the projection, and is the optimizer of all else at its own rate: a name, or settings."""
    ratio: float = Field(default=0.25, gt=0, le=1)
    """Rank, as a share of the smaller side."""
    projector: Projector = "galore"
    """Directions: the leading ones of a gradient, random ones, or one power step from the last ones."""
    residual: Literal["scaled", "feedback"] | None = "scaled"
    """What lies outside: scaled by channel, kept for later in a buffer of full size, or left out."""
    every: int = Field(default=50, ge=1)
    """Updates between two refreshes of the directions."""
    lazy: float | None = Field(default=None, gt=0, le=1)
    """Overlap of new directions with the last ones from which on the interval is doubled, up to 8 times `every`."""
    limit: float | None = Field(default=1.01, gt=1)
    """How much longer the scaled residual may get from one update to the next (Fira's limiter)."""
    min_size: int = Field(default=64, ge=1)
    """Matrices whose smaller side is shorter stay with the inner optimizer."""
    aside: tuple[str, ...] | None = None
    """Modules whose matrices stay with it too; the last nn.Linear, as the output layer, if not given, and the first
    convolution."""
    seed: int = 0
    """What random directions, and the draws of a range finder, follow from."""

    @model_validator(mode="after")
    def _check(self) -> Projected:
        if self.residual != "scaled" and self.limit not in (None, type(self).model_fields["limit"].default):
            raise SettingError(
                f"limit={self.limit} has no effect with residual={self.residual or 'none'}, where nothing is scaled; "
                "use residual=scaled, or leave the limit out"
            )
        return self

    def build(self, model: nn.Module, names: Sequence[str] | None = None) -> list[torch.optim.Optimizer]:
        """Return the projected optimizer over the matrices and the inner one over the rest."""
        freeze(model, self.rules)
        wanted = [name for name in owners(model) if names is None or name in set(names)]
        shapes = {name: oriented(p).shape for name, p in model.named_parameters() if p.ndim >= 2}
        hidden = set(hidden_matrices(model, self.aside, convolutions=True)) & set(wanted)
        projected = [name for name in wanted if name in hidden and shapes[name][0] >= self.min_size]
        rest = self.inner.model_copy(
            update={
                "rules": (*self.rules, *self.inner.rules),
                "layer_decay": self.layer_decay if self.inner.layer_decay is None else self.inner.layer_decay,
            }
        ).build(model, [name for name in wanted if name not in set(projected)])
        if not projected:
            raise SettingError(
                f"{type(model).__name__} has no hidden matrices whose smaller side is at least min_size={self.min_size}"
                f", so nothing would be projected; use a smaller min_size, or optim={type(self.inner).__name__.lower()}"
            )
        return [self.make(self.groups(model, projected)), *rest]

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the projected optimizer over ``groups`` of matrices and kernels."""
        return ProjectedOptimizer(groups, self)


class ProjectedOptimizer(torch.optim.Optimizer):
    """The matrices' half of `Projected`: the inner optimizer steps proxies of the projected shape, at a rate of 1.

    State of a parameter: the basis, the inner optimizer's state under ``inner``, and counts. Computed in single
    precision at least. Nothing is read back from the device but, with ``lazy``, the overlap at a refresh.
    """

    def __init__(self, params: Any, settings: Projected) -> None:
        self.settings = settings
        known = settings.inner.make([_group([torch.zeros(1)])]).defaults
        shared = {key: known[key] for key in _SHARED if key in known}
        super().__init__(params, {"lr": settings.lr, "weight_decay": 0.0} | shared)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of; torch's own leaves out all that it does not know."""
        return super().__getstate__() | {"settings": self.settings}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one update."""
        loss = loss_of(closure)
        order = {p: place for place, p in enumerate(p for group in self.param_groups for p in group["params"])}
        reached = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        proxies = [[self._proxy(p) for p in parameters] for parameters in reached]
        inner = self.settings.inner.make([_group(tensors) for tensors in proxies])
        moved = []
        for group, within, parameters in zip(self.param_groups, inner.param_groups, reached, strict=True):
            within.update({key: group[key] for key in _SHARED if key in group})
            for parameter, proxy in zip(parameters, within["params"], strict=True):
                if not self.state[parameter]:
                    fresh = {"wait": 0, "interval": self.settings.every, "refreshes": 0, "inner": inner.state[proxy]}
                    self.state[parameter] = fresh
                matrix = self._project(parameter, proxy, address(self.settings.seed, "projected", order[parameter]))
                inner.state[proxy] = self.state[parameter]["inner"]
                moved.append((group, parameter, proxy, matrix))
        inner.step()
        for group, parameter, proxy, matrix in moved:
            self.state[parameter]["inner"] = inner.state[proxy]
            change = self._lifted(self.state[parameter], matrix, proxy)
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(restored(change, parameter.shape).to(parameter.dtype), alpha=-group["lr"])
        return loss

    def _proxy(self, parameter: Tensor) -> Tensor:
        size, channels = oriented(parameter).shape
        wide = torch.promote_types(parameter.dtype, torch.float32)
        return torch.zeros(max(1, round(self.settings.ratio * size)), channels, dtype=wide, device=parameter.device)

    def _project(self, parameter: Tensor, proxy: Tensor, seed: int) -> Tensor:
        """Give the proxy the projected gradient; returns what was projected."""
        state = self.state[parameter]
        if "basis" in state and state["basis"].shape[1] != len(proxy):
            raise SettingError(
                f"ratio={self.settings.ratio:g} is rank {len(proxy)} of a {tuple(parameter.shape)} matrix whose state "
                f"has rank {state['basis'].shape[1]}; go on with the ratio that the state was saved with"
            )
        matrix = oriented(parameter.grad).to(proxy.dtype)  # type: ignore[arg-type]
        if "error" in state:
            matrix = matrix + state["error"]
        if state["wait"] == 0:
            self._refresh(state, matrix, proxy.shape[0], address(seed, state["refreshes"]))
        state["wait"] -= 1
        proxy.grad = state["basis"].mT @ matrix
        return matrix

    def _refresh(self, state: dict[str, Any], matrix: Tensor, rank: int, seed: int) -> None:
        """Take new directions, and turn the inner state with them."""
        last, lazy = state.get("basis"), self.settings.lazy
        basis = refresh(matrix, rank, self.settings.projector, last=last, seed=seed)
        if last is not None:
            kept = state["inner"]
            mean = kept.get("grad_avg")  # the centered RMSprop takes the root of what is over its square
            kept |= {key: rotated_squares(kept[key], basis, last, mean=mean) for key in SECOND & kept.keys()}
            kept |= {key: rotated(kept[key], basis, last) for key in FIRST & kept.keys()}
            same = lazy is not None and float(overlap(basis, last)) >= lazy
            longest = _LONGEST * self.settings.every
            state["interval"] = min(2 * state["interval"], longest) if same else self.settings.every
        state["basis"], state["wait"] = basis, state["interval"]
        state["refreshes"] += 1

    def _lifted(self, state: dict[str, Any], matrix: Tensor, proxy: Tensor) -> Tensor:
        """Return the change of the weights before its rate: the proxy's step, and what is made of the residual."""
        basis: Tensor = state["basis"]
        projected, step = proxy.grad, -proxy.data
        assert projected is not None
        if self.settings.residual is None:
            return basis @ step
        if self.settings.residual == "feedback":
            state["error"] = (matrix - basis @ projected).contiguous()
            return basis @ step
        whole = self.settings.projector == "random"  # which estimates norms, and approximates nothing
        part = channel_scales(step, projected, matrix) * (matrix if whole else matrix - basis @ projected)
        part, norm = limited(part, state.get("norm"), self.settings.limit)
        state["norm"] = norm.reshape(1)  # single numbers count as counters, which a resume puts on the CPU
        return part if whole else part + basis @ step


def _group(tensors: list[Tensor]) -> dict[str, Any]:
    return {"params": tensors, "lr": 1.0, "weight_decay": 0.0}
