"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from lehr.optim.base import Grouped
from lehr.optim.fields import Betas
from lehr.optim.lists import counter, gather, loss_of

__all__ = ["SOAP", "SOAPOptimizer", "eigenbasis", "refreshed"]


class SOAP(Grouped):
    """Settings of SOAP. Of a matrix, or a kernel as the matrix (out, the rest); anything else takes Adam's step.

    ``L = beta2 L + (1 - beta2) G G^T`` and ``R`` of ``G^T G``, with eigenvectors ``U`` and ``V``. The second moment is
    kept of ``U^T G V``, the momentum is divided by its root there, and turned back. The bases are brought up to date
    every ``every`` updates by one step of power iteration with QR. The first gradient of a matrix only sets up the
    bases. Decay is decoupled. Source: Vyas et al. 2024 (arXiv 2409.11321).

    >>> type(SOAP().build(torch.nn.Linear(2, 2))[0]).__name__
    'SOAPOptimizer'
    """

    lr: float = Field(default=3e-3, gt=0)
    """The base rate, which the schedule multiplies."""
    betas: Betas = (0.95, 0.95)
    """Decay rates of the momentum, and of the second moment and the preconditioner."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled decay, per unit of rate."""
    every: int = Field(default=10, ge=1)
    """Updates between two refreshes of the bases."""
    max_size: int = Field(default=10000, ge=1)
    """A side longer than this has no basis of its own: it would take the square of its length in memory."""

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return SOAP over ``groups``."""
        return SOAPOptimizer(
            groups, lr=self.lr, betas=self.betas, eps=self.eps, every=self.every, max_size=self.max_size
        )


class SOAPOptimizer(torch.optim.Optimizer):
    """SOAP as a torch optimizer. Bases are in single precision at least."""

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        every: int = 10,
        max_size: int = 10000,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "every": every, "max_size": max_size, "weight_decay": 0.0}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one update."""
        loss = loss_of(closure)
        for group in self.param_groups:
            lists = gather(self, group, lambda p: {"step": counter()})
            for parameter, gradient, state in zip(*lists, strict=True):
                self._update(parameter, gradient, state, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        wide = torch.promote_types(parameter.dtype, torch.float32)
        matrix = gradient.reshape(gradient.shape[0], -1).to(wide) if gradient.ndim >= 2 else gradient.to(wide)
        if "exp_avg" not in state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(matrix), torch.zeros_like(matrix)
            if matrix.ndim == 2 and _set_up(matrix, state, 1 - beta2, group["max_size"]):
                return
        state["step"] += 1
        count = float(state["step"])
        state["exp_avg"].lerp_(matrix, 1 - beta1)
        turned = _turned(matrix, state)
        state["exp_avg_sq"].mul_(beta2).addcmul_(turned, turned, value=1 - beta2)
        mean = _turned(state["exp_avg"], state) / (1 - beta1**count)
        root = (state["exp_avg_sq"] / (1 - beta2**count)).sqrt_().add_(group["eps"])
        update = _turned_back(mean.div_(root), state).reshape(parameter.shape)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update.to(parameter.dtype), alpha=-group["lr"])
        for side, outer in _outer_products(matrix, state):
            state[side].lerp_(outer, 1 - beta2)
            if count % group["every"] == 0:
                axis = 0 if side == "left" else 1
                basis, order = refreshed(state[side], state[f"{side}_basis"])
                state[f"{side}_basis"] = basis
                state["exp_avg_sq"] = state["exp_avg_sq"].index_select(axis, order)


def _set_up(matrix: Tensor, state: dict[str, Any], share: float, max_size: int) -> bool:
    """Make the preconditioners and bases of the sides that are short enough; returns whether there are any."""
    for side, rows in (("left", matrix), ("right", matrix.T)):
        if len(rows) <= max_size:  # the product itself would take the square of the length
            state[side] = (rows @ rows.T).mul_(share)
            state[f"{side}_basis"] = eigenbasis(state[side])
    return "left" in state or "right" in state


def _outer_products(matrix: Tensor, state: dict[str, Any]) -> list[tuple[str, Tensor]]:
    found = [("left", matrix @ matrix.T)] if "left" in state else []
    return found + ([("right", matrix.T @ matrix)] if "right" in state else [])


def _turned(matrix: Tensor, state: dict[str, Any]) -> Tensor:
    """Return ``U^T M V``, of what bases there are."""
    if "left_basis" in state:
        matrix = state["left_basis"].T @ matrix
    return matrix @ state["right_basis"] if "right_basis" in state else matrix


def _turned_back(matrix: Tensor, state: dict[str, Any]) -> Tensor:
    """Return ``U M V^T``."""
    if "left_basis" in state:
        matrix = state["left_basis"] @ matrix
    return matrix @ state["right_basis"].T if "right_basis" in state else matrix


def eigenbasis(symmetric: Tensor) -> Tensor:
    """Return the eigenvectors of a symmetric matrix as columns, that of the largest eigenvalue first.

    >>> eigenbasis(torch.diag(torch.tensor([1.0, 3.0, 2.0]))).abs().argmax(dim=0)
    tensor([1, 2, 0])
    """
    vectors: Tensor = torch.linalg.eigh(symmetric).eigenvectors
    return vectors.flip(1).contiguous()


def refreshed(symmetric: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Return the basis after one step of power iteration with QR, and the order in which its old columns went in.

    The columns are put in the order of their Rayleigh quotients first, so that QR keeps the strong directions; what is
    kept per column has to follow that order.

    >>> symmetric = torch.diag(torch.tensor([1.0, 2.0]))
    >>> basis, order = refreshed(symmetric, torch.eye(2)); basis.abs(), order
    (tensor([[0., 1.],
            [1., 0.]]), tensor([1, 0]))
    """
    strength = (basis * (symmetric @ basis)).sum(dim=0)
    order = strength.argsort(descending=True, stable=True)
    turned: Tensor = torch.linalg.qr(symmetric @ basis[:, order]).Q
    return turned.contiguous(), order
