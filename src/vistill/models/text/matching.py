"""Many sentences beside one picture or clip: what the layers that look at it make of it, its keys
and values, is computed once (spec umt 11)."""

from typing import Any, NamedTuple

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vistill.models.text.bert import SplitBert, text_bias


class Looked(NamedTuple):
    """Keys and values `[1, heads, n, d]` of one layer."""

    keys: Tensor
    values: Tensor


def look(bert: SplitBert, vision: Float[Tensor, "1 n d"]) -> list[Looked]:
    """What every layer of the second part sees of one picture or clip."""
    found = []
    for layer in bert.looking:
        cross = layer.crossattention.self
        found.append(Looked(_heads(cross, cross.key(vision)), _heads(cross, cross.value(vision))))
    return found


def fuse_looked(
    bert: SplitBert,
    states: Float[Tensor, "b l h"],
    mask: Bool[Tensor, "b l"],
    looked: list[Looked],
) -> Float[Tensor, "b l h"]:
    """`SplitBert.fuse` of several sentences with what was looked at once."""
    bias = text_bias(mask, states.dtype)
    for layer, (keys, values) in zip(bert.looking, looked, strict=True):
        attended = layer.attention(states, bias)[0]
        queries = _heads(layer.crossattention.self, layer.crossattention.self.query(attended))
        several = (len(queries), -1, -1, -1)
        found = F.scaled_dot_product_attention(
            queries, keys.expand(several), values.expand(several)
        )
        context = found.transpose(1, 2).flatten(2)
        crossed = layer.crossattention.output(context, attended)
        states = layer.output(layer.intermediate(crossed), crossed)
    return states


def _heads(cross: Any, x: Float[Tensor, "b n h"]) -> Float[Tensor, "b heads n d"]:
    return x.unflatten(-1, (cross.num_attention_heads, -1)).transpose(1, 2)
