"""Several models that predict together: by their mean, or by vote."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lehr.base.errors import DataError, SettingError
from lehr.base.tensors import in_full

__all__ = ["Ensemble", "How", "combine", "shares_of"]

How = Literal["mean", "logits", "vote", "outputs"]


def shares_of(count: int, weights: Sequence[float] | None = None) -> list[float]:
    """Return the share of each of ``count`` members: their weights over the sum of them, or equal ones.

    >>> shares_of(2), shares_of(2, [3, 1])
    ([0.5, 0.5], [0.75, 0.25])
    """
    if weights is None:
        return [1 / count] * count
    if len(weights) != count:
        raise SettingError(f"{len(weights)} weights were given for {count} members; give one for each")
    if not all(0 <= weight < math.inf for weight in weights) or sum(weights) == 0:
        raise SettingError(f"the weights {[*weights]} must be 0 or more, and not all of them 0; they are normalized")
    return [weight / sum(weights) for weight in weights]


def combine(
    outputs: Sequence[Tensor], how: How = "mean", *, weights: Sequence[float] | None = None, dim: int | None = -1
) -> Tensor:
    """Return what several models say together, from the logits (..., K) of each: logarithms of probabilities.

    With w the shares (`shares_of`) and softmax over the classes in ``dim``:

    - ``mean``: ``log sum_i w_i softmax(z_i)``, the mean of the probabilities;
    - ``logits``: ``log softmax(sum_i w_i z_i)``, their geometric mean, in which a confident member counts more;
    - ``vote``: the logarithm of the share of votes that each class has. Of classes with the same share, the one with
      the larger mean probability is put first, by the last bit. Not a probability that a loss could be taken of;
    - ``outputs``: ``sum_i w_i z_i`` as it is, for models that predict numbers.

    ``dim=None`` is for logits (...) of yes-or-no decisions; logits are returned.

    >>> logits = [torch.tensor([0.9, 0.1]).log(), torch.tensor([0.3, 0.7]).log(), torch.tensor([0.45, 0.55]).log()]
    >>> for how in ("mean", "logits", "vote"):
    ...     print(how, [round(p, 2) for p in combine(logits, how).exp().tolist()])
    mean [0.55, 0.45]
    logits [0.59, 0.41]
    vote [0.33, 0.67]
    """
    shapes = [tuple(z.shape) for z in outputs]
    if not shapes or len(set(shapes)) > 1:
        raise DataError(f"the members' outputs must have one shape, but they have {shapes}; do all know these classes?")
    if how != "outputs" and dim is None:
        pairs = [torch.stack([torch.zeros_like(z), z], dim=-1) for z in outputs]
        no, yes = combine(pairs, how, weights=weights).unbind(-1)
        return yes - no
    shares = shares_of(len(outputs), weights)
    stacked = torch.stack([in_full(z) for z in outputs])
    column = torch.tensor(shares, dtype=stacked.dtype, device=stacked.device).view(-1, *[1] * len(shapes[0]))
    if how == "outputs" or dim is None:
        return (column * stacked).sum(dim=0)
    dim = dim % len(shapes[0])
    if how == "logits":
        return (column * stacked).sum(dim=0).log_softmax(dim)
    mean = (stacked.log_softmax(dim + 1) + column.log()).logsumexp(dim=0)
    return mean if how == "mean" else _votes(stacked, column, mean, dim)


def _votes(stacked: Tensor, column: Tensor, mean: Tensor, dim: int) -> Tensor:
    """Return the logarithm of the shares of votes, ties decided by ``mean``."""
    choices = stacked.argmax(dim=dim + 1, keepdim=True)
    shares = torch.zeros_like(stacked).scatter(dim + 1, choices, column.expand_as(choices)).sum(dim=0)
    most = shares.amax(dim=dim, keepdim=True)
    tied = shares >= most * (1 - 1e-6)  # sums of the same weights in another order are the same share
    first = mean.where(tied, -math.inf).argmax(dim=dim, keepdim=True)
    votes = torch.where(tied, most, shares).log()
    behind = torch.nextafter(votes, torch.full_like(votes, -math.inf))
    return torch.where(tied, behind, votes).scatter(dim, first, most.log())


class Ensemble(nn.Module):
    """Models that get the same input, and whose outputs are one, by `combine`. All of them are in memory.

    >>> one, other = nn.Linear(2, 3), nn.Linear(2, 3)
    >>> Ensemble([one, other])(torch.zeros(5, 2)).exp().sum(dim=1).shape
    torch.Size([5])
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        how: How = "mean",
        *,
        weights: Sequence[float] | None = None,
        dim: int | None = -1,
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.how, self.dim = how, dim
        self.shares = shares_of(len(models), weights)

    def forward(self, *inputs: Any) -> Tensor:
        """Return the combined output."""
        return combine([model(*inputs) for model in self.models], self.how, weights=self.shares, dim=self.dim)
