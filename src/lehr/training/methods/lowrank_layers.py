"""Layers of two factors from the start on: where they pay on the shapes that this run has."""

from __future__ import annotations

import itertools
import sys
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from lehr.base import seeds
from lehr.base.errors import SettingError
from lehr.base.protocols import Method, RunContext
from lehr.dist.collectives import from_main
from lehr.dist.ranks import Ranks
from lehr.lowrank import LowRankConv2d, LowRankLinear, Selective, plan
from lehr.training.factoring import Exchanged, forward_of, selection

__all__ = ["LowRankLayers"]


class LowRankLayers(Selective):
    """Puts two factors in the place of each layer that gains by them, before the first step.

    The factors are the best ones of the layer's initial weights, so that activations begin as large as they would be
    (spectral initialization; Khodak et al. 2021, arXiv 2105.01029). `lehr.lowrank.plan` says which layers those are.
    What was chosen is in the checkpoint: a resumed run has the same layers, wherever it is resumed.
    """

    layers: tuple[str, ...] | None = None
    """Patterns of names of layers to look at, such as ``blocks.*``; all that are large enough if not given."""
    leave: tuple[str, ...] = ()
    """Patterns of names of layers that stay dense."""
    batches: int = Field(default=2, ge=1)
    """Training batches that are led through the model to see which layers they reach."""
    decay: Literal["product", "factors"] = "product"
    """What weight decay falls on: the product of the factors (Frobenius decay), or each factor."""
    factor_rate: float = Field(default=1.0, gt=0)
    """Factor on the rates of the factors, where the optimizer does not move their product, as Muon does."""

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""
        context.structure.change("lowrank_layers")
        found = selection(context, self.layers, self.leave)
        with seeds.isolated_global_generators(), torch.no_grad():
            batches = list(itertools.islice(context.batches(self.batches), self.batches))
            made = plan(context.model, batches, self, forward=forward_of(context), found=found)
        ranks = from_main(made.ranks, Ranks(context.rank, context.world))  # timings differ between processes
        if not ranks:
            raise SettingError(f"lowrank_layers finds no layer that gains by it:\n{made.table()}")
        layers = {name: _factors(context.model.get_submodule(name), rank) for name, rank in ranks.items()}
        context.structure.put(layers, frobenius=self.decay == "product", factor_rate=self.factor_rate)
        if context.rank == 0:
            print(f"lowrank_layers:\n{made.table()}", file=sys.stderr)
        return Exchanged()


def _factors(layer: nn.Module, rank: int) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        return LowRankConv2d.from_conv(layer, rank)
    assert isinstance(layer, nn.Linear)
    return LowRankLinear.from_linear(layer, rank)
