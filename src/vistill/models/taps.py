"""Internal signals of a model, by name; and the types in the signature of `Backbone.tap`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

TapKind = Literal[
    "block",
    "attention",
    "attention_residual",
    "ffn",
    "qkv",
    "cls_attention",
    "norm",
    "logits",
    "map",
    "pooled",
    "map_act",
    "pooled_act",
]


@dataclass(frozen=True)
class Tap:
    """An internal signal of a model.

    With F(i-1) the input of block i, H = attn(norm1 F), Ĥ = H + F, H̃ = mlp(norm2 Ĥ), F(i) = Ĥ + H̃
    (TinyMIM, section 3.2):

    | kind | tensor | shape |
    |---|---|---|
    | block | F(i) | `[B, N, D]` |
    | attention | H, after the output projection, before the residual | `[B, N, D]` |
    | attention_residual | Ĥ | `[B, N, D]` |
    | ffn | H̃, before the residual | `[B, N, D]` |
    | qkv | queries, keys, values with heads concatenated | `[B, N, 3, D]` |
    | cls_attention | attention of the class token over all tokens | `[B, M, N]` |
    | norm | final norm of the last block's output (`block` is ignored) | `[B, N, D]` |
    | logits | class scores of a model with its classifier (`block` is ignored) | `[B, C]` |
    | map | a CNN's last feature map, before the last activation | `[B, D, H, W]` |
    | pooled | its mean over space (with the norm that ConvNeXt has there) | `[B, D]` |
    | map_act, pooled_act | the same two after the last activation | |

    Blocks are counted from 1; taps of a CNN ignore `block`. N includes prefix tokens (class token
    first).
    """

    kind: TapKind
    block: int


class Shape(NamedTuple):
    """What a tap gives.

    Attributes:
        prefix: class and register tokens in front.
        patches: tokens, or places of a map, behind them; 1 for one vector.
        grid: rows and columns of the patches (of a clip, those of one time slot).
        width: channels.
    """

    prefix: int
    patches: int
    grid: tuple[int, int]
    width: int


Images = Float[Tensor, "b 3 *size"]
"""Normalised pixels."""
Taps = Sequence[Tap]
"""Which signals to return."""
Visible = Int[Tensor, "b k"] | None
"""Patch token indices that each sample keeps, in the order given; None keeps all."""
Draws = Float[Tensor, "branches b"] | None
"""Uniform draws in [0, 1), one row per residual branch with a non-zero drop rate, in call order;
None draws from the global generator."""


class Own(NamedTuple):
    """What the library itself makes of pictures; None where it does not say.

    Attributes:
        tokens: its last tokens `[B, N, D]` or last map, behind everything that precedes pooling.
        pooled: its pooled feature `[B, D]`.
    """

    tokens: Tensor | None
    pooled: Tensor | None


Run = Callable[[Tensor], Own]
"""A whole pass of the library over normalised pixels."""


class Seen(NamedTuple):
    """What a whole pass over some pictures showed.

    Attributes:
        signals: the taps that it came by, all of them of `watched` blocks.
        entered: the tokens in front of each of these.
        heads: of every block whose attention called the fused kernel, once.
        normed: what the final norm gave; None where it was not called once.
        own: what the library itself makes of the pictures.
    """

    signals: dict[Tap, Tensor]
    entered: dict[int, Tensor]
    heads: dict[int, int]
    normed: Tensor | None
    own: Own
