"""Queries, keys and values of a foreign attention, heard where it calls the fused kernel.

There they are behind rotary positions and query-key norms, and fused attention stays on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode


class AttentionCall(NamedTuple):
    """What the kernel was given.

    Attributes:
        query, key, value: `[B, M, N, d]`, in M heads.
        bias: added to the logits, or a mask of those that count; None for none.
        scale: of the products.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor | None
    scale: float

    def joined(self) -> Float[Tensor, "b n 3 d"]:
        """Queries, keys and values, heads concatenated."""
        parts = (self.query, self.key, self.value)
        return torch.stack([part.transpose(1, 2).flatten(2) for part in parts], dim=2)

    def of_class_token(self) -> Float[Tensor, "b m n"]:
        """How the first token attends to all tokens."""
        return self._rows(slice(1))[:, :, 0]

    def probabilities(self) -> Float[Tensor, "b m n n"]:
        """How every token attends to all tokens."""
        return self._rows(slice(None))

    def _rows(self, rows: slice) -> Float[Tensor, "b m r n"]:
        logits = (self.query[:, :, rows] @ self.key.mT).float() * self.scale
        if self.bias is not None:
            bias = self.bias if self.bias.shape[-2] == 1 else self.bias[..., rows, :]
            if bias.dtype == torch.bool:
                logits = logits.masked_fill(~bias, -torch.inf)
            else:
                logits = logits + bias
        return logits.softmax(dim=-1)


class AttentionCalls(TorchFunctionMode):
    """Tells every attention call of a forward pass to those who listen at that moment."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Callable[[AttentionCall], None]] = []

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.listeners and function in _READERS:
            call = _READERS[function](*args, **kwargs)
            for listener in self.listeners:
                listener(call)
        return function(*args, **kwargs)


def _of_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> AttentionCall:
    default = query.shape[-1] ** -0.5
    return AttentionCall(query, key, value, attn_mask, default if scale is None else scale)


def _of_module(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_heads: int,
    weight: Tensor,
    bias: Tensor | None,
    *_: Any,
    attn_mask: Tensor | None = None,
    **__: Any,
) -> AttentionCall:
    """Of `torch.nn.MultiheadAttention`, which projects inside; its tokens come first."""
    heads = F.linear(query, weight, bias).unflatten(2, (3, num_heads, -1))
    q, k, v = heads.permute(2, 1, 3, 0, 4).unbind(0)
    return _of_kernel(q, k, v, attn_mask)


_READERS: dict[Any, Callable[..., AttentionCall]] = {
    F.scaled_dot_product_attention: _of_kernel,
    F.multi_head_attention_forward: _of_module,
}
