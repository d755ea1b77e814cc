"""Multi-head attention whose projections are layers of their own, so that each can be replaced."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lehr.base.errors import SettingError
from lehr.lowrank.linear import linear_of

__all__ = ["SplitAttention", "not_splittable"]


class SplitAttention(nn.Module):
    """The function and the signature of `nn.MultiheadAttention`, with four layers in the place of packed weights.

    `nn.MultiheadAttention` reads the weights of its projections itself, so that no other layer can take their place.
    Here ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj`` are modules that are called. torch's fast path for
    evaluation needs packed weights, and ``in_proj_bias = None`` tells its Transformer layers so. Nested tensors, which
    `nn.TransformerEncoder` makes of padded batches for that path, are refused; `exchange` turns them off.

    Shapes: B batch, L queries, S keys, E width, H heads, D = E/H.

    >>> split = SplitAttention.from_multihead(nn.MultiheadAttention(8, 2, batch_first=True))
    >>> x = torch.zeros(1, 3, 8)
    >>> [tuple(value.shape) for value in split(x, x, x)]
    [(1, 3, 8), (1, 3, 3)]
    """

    in_proj_weight = None
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(
        self,
        projections: tuple[nn.Module, nn.Module, nn.Module, nn.Module],
        num_heads: int,
        *,
        dropout: float = 0.0,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = projections
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first

    @classmethod
    def from_multihead(cls, attention: nn.MultiheadAttention) -> SplitAttention:
        """Return the same function; the packed weights are copied apart, the output layer's parameters stay the same.

        Raises: `SettingError` for what `not_splittable` names.
        """
        if reason := not_splittable(attention):
            raise SettingError(f"an nn.MultiheadAttention with {reason} cannot be split; leave it as it is")
        packed, bias = attention.in_proj_weight, attention.in_proj_bias
        separate = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        weights = separate if packed is None else packed.chunk(3)
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        q, k, v = (linear_of(_copy(w), _copy(b)) for w, b in zip(weights, biases, strict=True))  # type: ignore[arg-type]
        for layer, own in zip((q, k, v), separate if packed is None else (packed,) * 3, strict=True):
            layer.weight.requires_grad_(own.requires_grad)
            if bias is not None:
                layer.bias.requires_grad_(bias.requires_grad)
        out = linear_of(attention.out_proj.weight, attention.out_proj.bias)
        made = cls((q, k, v, out), attention.num_heads, dropout=attention.dropout, batch_first=attention.batch_first)
        return made.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return (output, weights or None), as `nn.MultiheadAttention` does.

        ``attn_mask`` is (L, S) or (B H, L, S), ``key_padding_mask`` (B, S); True leaves out, floats are added to the
        logits. Weights are (B, L, S), or (B, H, L, S) where they are not averaged over the heads. ``is_causal`` is a
        hint that ``attn_mask`` is the causal mask.
        """
        if query.is_nested:
            raise SettingError(
                "SplitAttention takes no nested tensors; set use_nested_tensor=False on the nn.TransformerEncoder that "
                "makes them, or put the attention in its place with exchange"
            )
        if is_causal and attn_mask is None:
            raise SettingError("is_causal=True is a hint about attn_mask, which is missing; give the causal mask too")
        if batched := query.ndim == 3:
            turned = [x if self.batch_first else x.transpose(0, 1) for x in (query, key, value)]
        else:
            turned = [x[None] for x in (query, key, value)]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        q, k, v = (
            self._heads(layer(x)) for layer, x in zip((self.q_proj, self.k_proj, self.v_proj), turned, strict=True)
        )
        causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if causal else _merged(attn_mask, key_padding_mask, q)
        weights = None
        if need_weights:
            y, weights = self._weighted(q, k, v, mask)
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            rate = self.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=rate, is_causal=causal)
        out = self.out_proj(y.transpose(1, 2).flatten(2))
        if not batched:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else out.transpose(0, 1), weights

    def _heads(self, x_BLE: Tensor) -> Tensor:
        """(B, L, E) -> (B, H, L, D)."""
        return x_BLE.reshape(*x_BLE.shape[:2], self.num_heads, -1).transpose(1, 2)

    def _weighted(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        logits = (q * q.shape[-1] ** -0.5) @ k.mT
        weights = (logits if mask is None else logits + mask).softmax(dim=-1)
        weights = F.dropout(weights, self.dropout, self.training)
        return weights @ v, weights

    def to_dense(self) -> nn.MultiheadAttention:
        """Return an `nn.MultiheadAttention` with the same function; the output layer's parameters stay the same.

        Raises: `SettingError` where a projection is neither an `nn.Linear` nor has ``to_dense``.
        """
        q, k, v, out = (_dense(layer) for layer in (self.q_proj, self.k_proj, self.v_proj, self.out_proj))
        made = nn.MultiheadAttention(
            q.out_features,
            self.num_heads,
            self.dropout,
            bias=q.bias is not None,
            kdim=k.in_features,
            vdim=v.in_features,
            batch_first=self.batch_first,
            device="meta",
        )
        weights = [layer.weight for layer in (q, k, v)]
        if k.in_features == v.in_features == q.out_features:
            made.in_proj_weight = _packed(weights)
        else:
            for name, weight in zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), weights, strict=True):
                setattr(made, name, _packed([weight]))
        if q.bias is not None:
            made.in_proj_bias = _packed([layer.bias for layer in (q, k, v)])
        made.out_proj.weight, made.out_proj.bias = out.weight, out.bias
        return made.train(self.training)

    @classmethod
    def blank(cls, attention: nn.MultiheadAttention) -> SplitAttention:
        """Return a layer of these sizes; its weights are those of ``attention``."""
        return cls.from_multihead(attention)

    def describe(self) -> dict[str, Any]:
        """Return what `rebuilt` needs beside the sizes of the layer: nothing."""
        return {}

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"num_heads={self.num_heads}, dropout={self.dropout}, batch_first={self.batch_first}"


def not_splittable(attention: nn.MultiheadAttention) -> str | None:
    """Return what an attention has that four layers do not, None if there is nothing.

    >>> not_splittable(nn.MultiheadAttention(8, 2, add_zero_attn=True))
    'add_zero_attn=True'
    """
    if type(attention).forward is not nn.MultiheadAttention.forward:
        return "a forward of its own"
    if any(parametrize.is_parametrized(part) for part in attention.modules()):
        return "parametrized weights"
    if attention.bias_k is not None:
        return "add_bias_kv=True"  # needs keys that no projection makes, as does the next
    return "add_zero_attn=True" if attention.add_zero_attn else None


def _packed(parts: list[Tensor]) -> nn.Parameter:
    """Return the parts in one parameter, which trains if any of them does."""
    return nn.Parameter(torch.cat([part.detach() for part in parts]), any(part.requires_grad for part in parts))


def _copy(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach().clone()


def _dense(layer: nn.Module) -> nn.Linear:
    to_dense = getattr(layer, "to_dense", None)
    dense = layer if to_dense is None else to_dense()
    if not isinstance(dense, nn.Linear):
        raise SettingError(f"a projection is a {type(layer).__name__}, which has no dense form; use an nn.Linear")
    return dense


def _merged(attn_mask: Tensor | None, key_padding_mask: Tensor | None, q_BHLD: Tensor) -> Tensor | None:
    """Return the masks as numbers to add to the logits (B, H, L, S), or None where there are none."""
    total = None
    if attn_mask is not None:
        total = _added(attn_mask, q_BHLD.dtype)
        if total.ndim == 3:  # one for each head of each sample
            total = total.view(*q_BHLD.shape[:2], *total.shape[1:])
    if key_padding_mask is not None:
        padding = _added(key_padding_mask, q_BHLD.dtype)[:, None, None, :]
        total = padding if total is None else total + padding
    return total


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.is_floating_point():
        return mask
    if mask.dtype != torch.bool:
        raise SettingError(f"a mask of {mask.dtype}; use bool, True leaves out, or floats to add to the logits")
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask, -torch.inf)
