"""Muon for the hidden matrices, AdamW for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import _muon

from lehr.base.errors import SettingError
from lehr.base.tables import did_you_mean
from lehr.base.tensors import in_full
from lehr.optim.adamw import AdamW
from lehr.optim.base import Grouped, parameters_of
from lehr.optim.fields import Share
from lehr.optim.groups import owners
from lehr.optim.lists import gather, loss_of
from lehr.optim.rules import freeze, nearest_part

__all__ = ["MatrixMuon", "Muon", "factor_updates", "hidden_matrices", "orthogonalized", "shape_factor"]

_KERNELS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def hidden_matrices(model: nn.Module, aside: tuple[str, ...] | None = None, *, convolutions: bool = False) -> list[str]:
    """Return the names of the 2-D weights of `nn.Linear` modules, but for those set ``aside``.

    ``aside`` lists the names of modules that stay with AdamW; None stands for the last `nn.Linear` of the model, which
    is its output layer. Embeddings, tied ones too, are never hidden. With ``convolutions``, kernels of convolutions are
    hidden too; None then stands for the first of them as well, which takes the input.

    >>> hidden_matrices(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2)))
    ['0.weight', '1.weight']
    """
    kinds_of = (nn.Linear, *_KERNELS) if convolutions else (nn.Linear,)
    known = {name: module for name, module in model.named_modules() if isinstance(module, kinds_of)}
    if aside is None:
        linear = [name for name, module in known.items() if isinstance(module, nn.Linear)]
        kernels = [name for name, module in known.items() if isinstance(module, _KERNELS)]
        aside = (*linear[-1:], *kernels[:1])
    unknown = [name for name in aside if name not in known]
    if unknown:
        kinds = "nn.Linear or convolution" if convolutions else "nn.Linear"
        raise SettingError(
            f"aside={list(aside)} names {unknown[0]!r}, which is not an {kinds} of the model"
            f"{did_you_mean(unknown[0], known)}; its {kinds} modules: {', '.join(known) or 'none'}"
        )
    hidden = {id(module) for name, module in known.items() if name not in aside}
    parameters = dict(model.named_parameters())
    return [
        name
        for name, holders in owners(model).items()
        if parameters[name].ndim >= 2 and all(id(holder) in hidden for holder in holders)
    ]


class Muon(Grouped):
    """Settings of torch's Muon with AdamW beside it.

    Muon replaces the momentum of a matrix by its nearest semi-orthogonal matrix (5 Newton-Schulz steps), times
    ``lr * sqrt(max(1, rows/columns))``. Source: Jordan et al. 2024. Torch's default decay of 0.1 is off here.
    Rules and the decay by layer hold for AdamW's parameters too.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    >>> [type(optimizer).__name__ for optimizer in Muon().build(model)]
    ['MatrixMuon', 'AdamW']
    """

    lr: float = Field(default=0.02, gt=0)
    """The base rate of the hidden matrices."""
    momentum: Share = 0.95
    """Momentum, in Nesterov's form."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of the hidden matrices."""
    aside: tuple[str, ...] | None = None
    """Modules whose matrices stay with AdamW; the last nn.Linear if not given, and the first convolution."""
    convolutions: Literal["adamw", "flatten"] = "adamw"
    """Whose the kernels of convolutions are: AdamW's, or Muon's as matrices (out, in times the kernel's size)."""
    split_qkv: tuple[str, ...] = ()
    """Patterns of weights of three matrices on top of one another, each to be made orthogonal: ``*.qkv.weight``."""
    adamw: AdamW = AdamW(lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    """The optimizer of everything else."""

    def build(self, model: nn.Module, names: Sequence[str] | None = None) -> list[torch.optim.Optimizer]:
        """Return Muon over the hidden matrices and AdamW over the rest."""
        freeze(model, self.rules)
        flatten = self.convolutions == "flatten"
        wanted = [name for name in owners(model) if names is None or name in set(names)]
        hidden = [name for name in hidden_matrices(model, self.aside, convolutions=flatten) if name in set(wanted)]
        if not hidden:
            raise SettingError(
                f"{type(model).__name__} has no hidden matrices for Muon (2-D weights of nn.Linear modules other than "
                "the last); use optim=adamw"
            )
        rest = self.adamw.model_copy(
            update={
                "rules": (*self.rules, *self.adamw.rules),
                "layer_decay": self.layer_decay if self.adamw.layer_decay is None else self.adamw.layer_decay,
            }
        )
        groups = self._split(model, self.groups(model, hidden))
        return [self.make(groups), *rest.build(model, [name for name in wanted if name not in set(hidden)])]

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return Muon over ``groups`` of matrices and kernels."""
        return MatrixMuon(groups, lr=self.lr, momentum=self.momentum)

    def _split(self, model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the groups with the weights that are three matrices apart, as ``parts=3``."""
        named = dict(model.named_parameters())
        held = {id(parameter) for parameter in parameters_of(groups)}
        threes: set[int] = set()
        for pattern in self.split_qkv:
            found = [name for name in named if fnmatchcase(name, pattern)]
            odd = [name for name in found if named[name].ndim != 2 or len(named[name]) % 3]
            if odd or not found:
                fault = f"takes {odd[0]!r}, whose rows are not three matrices" if odd else "selects no parameter"
                near = "" if odd else nearest_part(pattern, named)
                raise SettingError(f"split_qkv: the pattern {pattern!r} {fault} of {type(model).__name__}{near}")
            if not any(id(named[name]) in held for name in found):
                own = ", ".join(name for name, parameter in named.items() if id(parameter) in held)
                raise SettingError(
                    f"split_qkv: the pattern {pattern!r} takes none of Muon's matrices, which are: {own}"
                )
            threes |= {id(named[name]) for name in found}
        if not threes:
            return groups
        parted = [
            group | {"parts": parts, "params": [p for p in group["params"] if (id(p) in threes) == (parts == 3)]}
            for group in groups
            for parts in (1, 3)
        ]
        return [group for group in parted if group["params"]]


class MatrixMuon(torch.optim.Optimizer):
    """Torch's Muon, step for step, and for kernels as matrices, weights of several matrices, and factors of matrices.

    Groups say so: ``parts`` for weights of several matrices on top of one another, ``factors`` for parameters that are
    pairs of factors, one behind the other, which are moved so that their product moves as a matrix would.
    """

    takes_factors = True

    def __init__(self, params: Any, *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "parts": 1})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one update."""
        loss = loss_of(closure)
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            lists = gather(self, group, lambda p: {"momentum_buffer": torch.zeros_like(p)})
            ahead = [
                gradient.lerp(state["momentum_buffer"].lerp_(gradient, 1 - momentum), momentum)
                for gradient, state in zip(lists.gradients, lists.states, strict=True)
            ]
            if group["weight_decay"] and lists.parameters:
                torch._foreach_mul_(lists.parameters, 1 - lr * group["weight_decay"])
            if group.get("factors"):
                self._move_products(lists.parameters, ahead, lr)
                continue
            for parameter, momentum_ahead in zip(lists.parameters, ahead, strict=True):
                matrix = momentum_ahead.reshape(len(parameter), -1)
                for update, target in zip(matrix.chunk(group["parts"]), parameter.chunk(group["parts"]), strict=True):
                    far = lr * shape_factor(*update.shape)
                    target.sub_(orthogonalized(update).reshape(target.shape), alpha=far)
        return loss

    @staticmethod
    def _move_products(factors: list[Tensor], ahead: list[Tensor], lr: float) -> None:
        pairs = zip(factors[::2], factors[1::2], ahead[::2], ahead[1::2], strict=True)
        for U, V, of_U, of_V in pairs:
            change_U, change_V = factor_updates(U, V, of_U, of_V, damping=lr)
            U.sub_(change_U, alpha=lr)
            V.sub_(change_V, alpha=lr)


def factor_updates(U: Tensor, V: Tensor, of_U: Tensor, of_V: Tensor, *, damping: float) -> tuple[Tensor, Tensor]:
    """Return the changes of two factors (m, r) and (n, r) by which ``U V^T`` moves as Muon would move the matrix.

    ``of_U`` and ``of_V`` are their momenta, ``M V`` and ``M^T U`` of the product's momentum M. With ``P = V^T V + d``::

        change of U = shape_factor(m, n) / sqrt(2) * orth(of_U P^(-1/2)) P^(-1/2)

    and likewise for V. For the damping d = 0 that moves the product by ``orth(M Q_V) Q_V^T``, with an orthonormal basis
    Q_V of V: every direction that the factors span goes equally far, as with Muon, and those that a singular value of
    the product makes weak in U and V no less than others. Orthogonalizing the momentum of each factor by itself moves
    the product by the roots of the singular values instead. The damping, a singular value, keeps directions that are
    weaker than a step from being thrown about. Related: scaled gradient descent (Tong et al. 2021, arXiv 2005.08898).

    >>> U, V = torch.eye(3)[:, :2] * 4, torch.eye(3)[:, :2] / 4
    >>> change, _ = factor_updates(U, V, torch.eye(3)[:, :2] * 9, torch.zeros(3, 2), damping=0.0)
    >>> (change @ V.T).diag()[:2].mul(2**0.5).sub(1).abs().max() < 0.35
    tensor(True)
    """
    scale = shape_factor(len(U), len(V)) / math.sqrt(2)
    root_V, root_U = (_inverse_root(factor.mT @ factor, damping) for factor in (V, U))
    unit_U, unit_V = (orthogonalized(m @ root).to(m.dtype) for m, root in ((of_U, root_V), (of_V, root_U)))
    return scale * (unit_U @ root_V), scale * (unit_V @ root_U)


def _inverse_root(gram: Tensor, damping: float) -> Tensor:
    """Return ``(gram + damping)^(-1/2)``; directions in which there is nothing at all stay where they are."""
    values, vectors = torch.linalg.eigh(in_full(gram))
    values = values.clamp_min(0) + damping
    floor = torch.finfo(values.dtype).eps * values[-1]
    roots: Tensor = torch.where(values > floor, values.rsqrt(), torch.zeros_like(values))
    root: Tensor = (vectors * roots) @ vectors.mT
    return root.to(gram.dtype)


def orthogonalized(matrix: Tensor) -> Tensor:
    """Return about the nearest semi-orthogonal matrix, in bfloat16.

    Torch's kernel: the matrix over its Frobenius norm, then 5 times ``X = a X + (b A + c A^2) X`` with ``A = X X^T``
    and (a, b, c) = (3.4445, -4.775, 2.0315), in bfloat16. Its singular values end between about 0.7 and 1.2.

    >>> orthogonalized(torch.diag(torch.tensor([3.0, 2.0]))).diag().sub(1).abs().max() < 0.35
    tensor(True)
    """
    coefficients = (_muon.DEFAULT_A, _muon.DEFAULT_B, _muon.DEFAULT_C)
    unit: Tensor = _muon._zeropower_via_newtonschulz(matrix, coefficients, _muon.DEFAULT_NS_STEPS, _muon.EPS)
    return unit


def shape_factor(rows: int, columns: int) -> float:
    """Return by how much a tall matrix is to move further: ``sqrt(max(1, rows/columns))``.

    >>> shape_factor(8, 2), shape_factor(2, 8)
    (2.0, 1.0)
    """
    return math.sqrt(max(1.0, rows / columns))
