"""What an optimizer knows of a parameter, in terms of the factors that take the parameter's place.

With ``W = U V^T`` the gradients are ``dU = dW V`` and ``dV = dW^T U``, so everything that is linear in the gradient
goes over exactly at the moment of the exchange: ``m_U = m_W V``. Second moments go over as if the elements were
independent: ``v_U = v_W (V * V)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["FIRST", "SECOND", "factor_states", "grown_state", "rotated_state"]

FIRST = frozenset({"exp_avg", "momentum_buffer", "grad_avg"})
"""The names under which optimizers keep what is linear in the gradient."""
SECOND = frozenset({"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum"})
"""The names under which they keep what is a mean or a sum of its squares."""


def factor_states(state: Mapping[str, Any], U: Tensor, V: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the states of ``U`` (out, r) and ``V`` (in, r) that follow from the ``state`` of a matrix (out, in).

    Counters stay. Both are empty where the optimizer keeps something of the matrix that is not known here: then the
    factors begin afresh.

    >>> state = {"step": torch.tensor(3.0), "exp_avg": torch.eye(2)}
    >>> of_U, of_V = factor_states(state, torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]]))
    >>> of_U["exp_avg"].flatten().tolist(), of_V["exp_avg"].flatten().tolist(), of_U["step"].item()
    ([3.0, 4.0], [1.0, 2.0], 3.0)
    """
    return _mapped(state, lambda m: m, V), _mapped(state, lambda m: m.T, U)


def rotated_state(state: Mapping[str, Any], T: Tensor) -> dict[str, Any]:
    """Return the state of a factor (n, r) whose partner P has become ``P T``, with T (r, s).

    ``W = U V^T`` with ``V' = V T``: ``m_U' = m_W V' = m_U T``, and so ``v_U' = v_U (T * T)``.

    >>> rotated_state({"exp_avg": torch.ones(1, 2)}, torch.tensor([[1.0], [2.0]]))["exp_avg"].item()
    3.0
    """
    return _mapped(state, lambda m: m, T)


@torch.no_grad()
def _mapped(state: Mapping[str, Any], turned: Any, partner: Tensor) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            made[key] = value.clone() if isinstance(value, Tensor) else value
        elif key in FIRST and value.ndim == 2:
            made[key] = (turned(value) @ partner.to(value.dtype)).contiguous()
        elif key in SECOND and value.ndim == 2:
            made[key] = (turned(value) @ partner.to(value.dtype).square()).contiguous()
        else:
            return {}
    return made


@torch.no_grad()
def grown_state(state: Mapping[str, Any], columns: int) -> dict[str, Any]:
    """Return the state of a factor (n, r) that has got further columns, ``columns`` in all.

    Theirs is 0 in what is linear in the gradient; in second moments it is the mean of their row, so that the first
    update of a new column is no larger than its neighbours' are.

    >>> grown_state({"exp_avg_sq": torch.tensor([[1.0, 3.0]])}, 3)["exp_avg_sq"].tolist()
    [[1.0, 3.0, 2.0]]
    """
    made: dict[str, Any] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            made[key] = value.clone() if isinstance(value, Tensor) else value
        elif key in FIRST | SECOND and value.ndim == 2:
            rest = value.new_zeros(len(value), columns - value.shape[1])
            made[key] = torch.cat([value, rest if key in FIRST else rest + value.mean(dim=1, keepdim=True)], dim=1)
        else:
            return {}
    return made
