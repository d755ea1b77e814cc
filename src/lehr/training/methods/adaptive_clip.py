"""Adaptive gradient clipping as a method."""

from __future__ import annotations

import functools

from pydantic import Field
from torch import nn

from lehr.base.errors import SettingError
from lehr.base.protocols import Method, RunContext
from lehr.base.settings import Settings
from lehr.optim.agc import adaptive_clip_
from lehr.training.methods.gradient_change import GradientChange

__all__ = ["AdaptiveGradientClipping"]


class AdaptiveGradientClipping(Settings):
    """Settings of `lehr.optim.adaptive_clip_` before each update, after what the recipe's ``clip`` does."""

    limit: float = Field(default=0.01, gt=0)
    """Largest norm of a unit's gradient, as a share of the norm of its weights."""
    eps: float = Field(default=1e-3, gt=0)
    """Smallest norm that weights count with."""
    aside: tuple[str, ...] | None = None
    """Modules whose parameters are not clipped; the last nn.Linear, as the output layer, if not given."""

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""
        context.structure.hold("adaptive_gradient_clipping")
        clip = functools.partial(adaptive_clip_, limit=self.limit, eps=self.eps)
        return GradientChange(clip, _clipped(context.model, self.aside))


def _clipped(model: nn.Module, aside: tuple[str, ...] | None) -> list[nn.Parameter]:
    """Return the parameters of ``model`` but for those of the modules set aside."""
    modules = dict(model.named_modules())
    if aside is None:
        aside = tuple(name for name, module in modules.items() if isinstance(module, nn.Linear))[-1:]
    unknown = [name for name in aside if name not in modules]
    if unknown:
        raise SettingError(
            f"aside={list(aside)} names {unknown[0]!r}, which is no module of {type(model).__name__}; its modules: "
            f"{', '.join(name for name in modules if name) or 'none'}"
        )
    kept = {parameter for name in aside for parameter in modules[name].parameters()}
    clipped = [parameter for parameter in model.parameters() if parameter not in kept]
    if not clipped:
        raise SettingError(
            f"adaptive clipping has nothing to clip: all parameters of {type(model).__name__} are in "
            f"{', '.join(map(repr, aside))}, which is set aside; give aside=[] to clip them too"
        )
    return clipped
