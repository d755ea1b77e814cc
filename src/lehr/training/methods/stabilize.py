"""Gradients replaced by their low-rank approximations: the guide's DBC-DAC hook, with its defects mended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.base.protocols import Method, Place, RunContext
from lehr.base.seeds import address
from lehr.base.settings import Settings
from lehr.base.tensors import in_full
from lehr.lowrank import factorize
from lehr.lowrank.balance import row_scale

__all__ = ["StabilizeGradients", "stabilized"]


class _Preset(NamedTuple):
    ratio: float
    residual: int
    threshold: float


_PRESETS = {
    "conservative": _Preset(0.15, 1, 1e-6),
    "balanced": _Preset(0.10, 0, 1e-6),
    "aggressive": _Preset(0.08, 0, 1e-5),
}
_COMPANION = 0.05
"""Rank of one residual, as a share of the smaller side."""


class StabilizeGradients(Settings):
    """Settings of `stabilized` on the gradient of each large matrix before an update, after what ``clip`` does.

    It costs time at every step and saves nothing: what makes a model faster are layers of low rank, and what makes its
    optimizer's state smaller is optim=projected. For studying what the small directions of gradients are good for.
    """

    preset: Literal["conservative", "balanced", "aggressive"] = "balanced"
    """The guide's settings: ratio 0.15 and one residual; 0.10 and none; 0.08 and none, with a threshold of 1e-5."""
    ratio: float | None = Field(default=None, gt=0, le=1)
    """Rank, as a share of the smaller side; the preset's if not given."""
    residual: int | None = Field(default=None, ge=0)
    """How many times another 5 % of the smaller side are taken of what is left over; the preset's if not given."""
    balance: Literal["row_norm", "row_sum"] | None = None
    """What rows are divided by before, and multiplied by after: their norms, or, as in the guide, their sums."""
    threshold: float | None = Field(default=None, gt=0)
    """Least size of a row's sum, of balance=row_sum only; the preset's if not given."""
    min_size: int = Field(default=64, ge=2)
    """Matrices whose smaller side is shorter are left alone."""

    @model_validator(mode="after")
    def _check(self) -> StabilizeGradients:
        if self.threshold is not None and self.balance != "row_sum":
            raise SettingError(
                f"threshold={self.threshold} has no effect with balance={self.balance or 'none'}: it is the least size "
                "of a row's sum; use balance=row_sum, or leave it out"
            )
        return self

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""
        sides = {name: min(p.flatten(1).shape) for name, p in context.model.named_parameters() if p.ndim >= 2}
        if not any(side >= self.min_size for side in sides.values()):
            raise SettingError(
                f"{type(context.model).__name__} has no matrix whose smaller side is at least min_size="
                f"{self.min_size}, so no gradient would be changed; use at most {max(sides.values(), default=0)}"
            )
        return StabilizeGradientsMethod(self, context.seed)


class StabilizeGradientsMethod(Method):
    """Approximates the gradients of one run, and keeps the directions that the next approximation starts from."""

    changes = frozenset({"gradients"})

    def __init__(self, settings: StabilizeGradients, seed: int) -> None:
        preset = _PRESETS[settings.preset]
        self._settings, self._seed = settings, seed
        self._ratio = preset.ratio if settings.ratio is None else settings.ratio
        self._residual = preset.residual if settings.residual is None else settings.residual
        self._threshold = preset.threshold if settings.threshold is None else settings.threshold
        self._bases: dict[str, Tensor] = {}

    def grads_ready(self, model: nn.Module, place: Place) -> None:
        """Replace the gradients of large matrices."""
        for name, parameter in model.named_parameters():
            gradient = parameter.grad
            if gradient is None or gradient.ndim < 2 or gradient.is_sparse:
                continue
            matrix = gradient.flatten(1)
            side = min(matrix.shape)
            if side < self._settings.min_size:
                continue
            balance = self._settings.balance
            scale = None if balance is None else row_scale(in_full(matrix), balance, threshold=self._threshold)
            rank = min(side, _share(side, self._ratio) + self._residual * _share(side, _COMPANION))
            start = self._bases.get(name)
            narrow = start is None or start.shape[-1] < rank  # resumed with a larger rank
            made, self._bases[name] = stabilized(
                matrix,
                rank,
                scale=scale,
                start=None if start is None or narrow else start.to(matrix.device),
                seed=address(self._seed, "stabilize", name),
            )
            gradient.copy_(made.reshape(gradient.shape))

    def state_dict(self) -> dict[str, Any]:
        """Return the directions by the names of the parameters."""
        return dict(self._bases)

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Take the directions back."""
        self._bases = dict(state)


def _share(side: int, ratio: float) -> int:
    return max(1, int(side * ratio))


def stabilized(
    gradient: Tensor, rank: int, *, scale: Tensor | None = None, start: Tensor | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return ``D (D^-1 G)_r`` of a gradient G (m, n), and the directions (n, k) for the next call to ``start`` from.

    ``D`` is the diagonal of ``scale`` (m, 1), 1 if not given; the approximation of rank r is that of
    `lehr.lowrank.factorize`, warm-started. So a rank that is larger by what residuals have is the same as adding the
    approximated residuals at weight 1. A gradient that is not finite gives one that is not finite, and leaves the
    directions as they were.

    >>> import torch
    >>> G = torch.outer(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0]))
    >>> made, start = stabilized(G, 1); torch.allclose(made, G), torch.allclose(stabilized(G, 1, start=start)[0], G)
    (True, True)
    """
    matrix = in_full(gradient) if scale is None else in_full(gradient) / scale
    found = factorize(matrix, rank=rank, start=start, seed=seed)
    made = found.dense() if scale is None else found.dense() * scale
    return made, found.basis.contiguous()
