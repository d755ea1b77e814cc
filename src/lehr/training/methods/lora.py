"""LoRA: a frozen model, and small pairs of factors beside its layers that train."""

from __future__ import annotations

from fnmatch import fnmatchcase

from pydantic import Field
from torch import nn

from lehr.base import seeds
from lehr.base.errors import SettingError
from lehr.base.protocols import Method, RunContext
from lehr.base.settings import Settings
from lehr.lowrank import LoRALinear
from lehr.training.factoring import Exchanged, chosen_layers

__all__ = ["LoRA"]


class LoRA(Settings):
    """Freezes the model, and trains a pair of factors beside each layer (Hu et al. 2021, arXiv 2106.09685).

    Checkpoints hold what trains and no more; the rest comes from the recipe's ``weights`` again, and a resumed run
    checks that it is the same.
    """

    rank: int = Field(default=8, ge=1)
    """Columns of each factor."""
    alpha: float = Field(default=16.0, gt=0)
    """The pair's product counts ``alpha / rank``."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of a pair's input that is dropped in training."""
    layers: tuple[str, ...] | None = None
    """Patterns of names of layers to put a pair beside; all that are large enough if not given."""
    leave: tuple[str, ...] = ()
    """Patterns of names of layers without a pair."""
    train: tuple[str, ...] = ()
    """Patterns of names of other parameters that go on training, such as ``head.*``."""

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""
        context.structure.change("lora")
        names = chosen_layers(context, "lora", self.layers, self.leave)
        parameters = dict(context.model.named_parameters())
        unused = [pattern for pattern in self.train if not any(fnmatchcase(name, pattern) for name in parameters)]
        if unused:
            raise SettingError(
                f"lora: train={unused[0]!r} matches no parameter of {type(context.model).__name__}; it has: "
                f"{', '.join(list(parameters)[:10])}{' ...' if len(parameters) > 10 else ''}"
            )
        inside = {id(p) for name in names for p in context.model.get_submodule(name).parameters()}
        context.structure.freeze(
            [
                name
                for name, parameter in parameters.items()
                if id(parameter) not in inside and not any(fnmatchcase(name, pattern) for pattern in self.train)
            ]
        )
        pairs = {name: self._beside(context, name) for name in names}
        context.structure.put(pairs)
        return Exchanged()

    def _beside(self, context: RunContext, name: str) -> nn.Module:
        generator = seeds.generator(context.seed, "lora", name)
        linear = context.model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        return LoRALinear.from_linear(linear, self.rank, self.alpha, dropout=self.dropout, generator=generator)
