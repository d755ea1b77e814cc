"""Gradient noise as a method."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from lehr.base.protocols import Method, Place, RunContext
from lehr.base.settings import Settings
from lehr.optim.noise import add_noise_, noise_deviation

__all__ = ["GradientNoise"]


class GradientNoise(Settings):
    """Settings of `lehr.optim.add_noise_` before each update, after what the recipe's ``clip`` does.

    The draws follow from the run's seed, the step and the name of the parameter, and are the same in every process,
    since the gradients have been shared by then.
    """

    eta: float = Field(default=0.01, gt=0)
    """Variance of the noise at the first update."""
    gamma: float = Field(default=0.55, ge=0)
    """How fast the variance falls, as a power of the step; 0 for not at all."""

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""
        return GradientNoiseMethod(self, context.seed)


class GradientNoiseMethod(Method):
    """Adds the noise of one run."""

    changes = frozenset({"gradients"})

    def __init__(self, settings: GradientNoise, seed: int) -> None:
        self._settings, self._seed = settings, seed

    def grads_ready(self, model: nn.Module, place: Place) -> None:
        deviation = noise_deviation(place.step, eta=self._settings.eta, gamma=self._settings.gamma)
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        add_noise_(gradients, deviation, seed=self._seed, step=place.step)
