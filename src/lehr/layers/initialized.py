"""A model with initial weights of one's choice, as an option of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, model_validator
from torch import nn

from lehr.base.errors import SettingError
from lehr.base.settings import Settings
from lehr.layers.initialize import as_rule, initialize
from lehr.layers.mup import mup_initialize
from lehr.layers.truncated_normal import scale_residual
from lehr.layers.zero_init import zero_init_residual

__all__ = ["Initialized"]


class Initialized(Settings):
    """A model that is initialized by a rule once it is built.

    ``Recipe(model=Initialized(model=ConvNetSettings(), rule="he"), ...)``; its settings are then below ``model.model``.

    >>> made = Initialized(model=lambda: nn.Linear(4, 2), rule="orthogonal").build({})
    >>> torch.allclose(made.weight @ made.weight.T, torch.eye(2), atol=1e-5)
    True
    """

    model: Any
    """What makes the model: a class or function without arguments, or settings with ``build(facts)``."""
    rule: Annotated[Any, BeforeValidator(as_rule)]
    """`xavier`, `he`, `lecun`, `orthogonal`, `truncated_normal`, or settings of one."""
    scaled_ends: tuple[str, ...] = ()
    """Names of the layers that end a residual branch, with `*`; divided by the root of their number."""
    zero_ends: tuple[str, ...] = ()
    """Names of the modules that end a residual branch, with `*`; set to 0."""
    mup_base: Any = None
    """What makes the same model at the width that its rate was tuned for; initializes by muP."""

    @model_validator(mode="after")
    def _check(self) -> Initialized:
        for name, given in (("model", self.model), ("mup_base", self.mup_base)):
            makes = (hasattr(given, "build") or callable(given)) and not isinstance(given, nn.Module)
            if not makes and (name, given) != ("mup_base", None):
                raise SettingError(f"{name} is a {type(given).__name__}; give what makes a model: a class, settings")
        return self

    def build(self, facts: Mapping[str, Any]) -> nn.Module:
        """Return the model, initialized."""
        model = _made(self.model, facts)
        if self.mup_base is None:
            initialize(model, self.rule)
        else:
            with torch.device("meta"):  # shapes alone: neither memory nor draws
                base = _made(self.mup_base, facts)
            mup_initialize(model, base, self.rule)
        if self.scaled_ends:
            scale_residual(model, *self.scaled_ends)
        if self.zero_ends:
            zero_init_residual(model, *self.zero_ends)
        return model


def _made(maker: Any, facts: Mapping[str, Any]) -> nn.Module:
    made: nn.Module = maker.build(facts) if hasattr(maker, "build") else maker()
    return made
