"""The pre-norm transformer block that every ViT, decoder and generator here is made of (spec 1)."""

from collections.abc import Collection, Iterable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vistill.models.backbone import TapKind
from vistill.models.relative_bias import RelativePositionBias
from vistill.models.remade import Made, linear_behind, product_behind
from vistill.nearest import no_split
from vistill.tokens.masks import gather_tokens
from vistill.tokens.patches import patchify

LAYER_NORM_EPS = 1e-6
CLIP_NORM_EPS = 1e-5
QKVBias = Literal["all", "no_key", "none"]
Activation = Literal["gelu", "quick_gelu"]


class BlockParts(NamedTuple):
    """What an encoder's blocks are made of besides their sizes, and with them those of the decoder
    or generator beside it.

    Attributes:
        mlp_ratio, layer_scale, qkv_bias, qk_scale: see `Block`.
    """

    mlp_ratio: float = 4.0
    layer_scale: float | None = None
    qkv_bias: QKVBias = "all"
    qk_scale: float | None = None


class PatchEmbed(nn.Module):
    """Patches to tokens. The weight is a convolution's, the product a matrix product, so that only
    visible patches are embedded.

    Args:
        patch_size: side of a patch in pixels.
        embed_dim: token width D.
        tubelet_size: frames per token; None for pictures.
        bias: whether the projection has a bias.
    """

    def __init__(
        self, patch_size: int, embed_dim: int, tubelet_size: int | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.tubelet_size = tubelet_size
        self.proj: nn.Conv2d | nn.Conv3d
        if tubelet_size is None:
            self.proj = nn.Conv2d(3, embed_dim, patch_size, patch_size, bias=bias)
        else:
            kernel = (tubelet_size, patch_size, patch_size)
            self.proj = nn.Conv3d(3, embed_dim, kernel, kernel, bias=bias)

    def forward(
        self, images: Float[Tensor, "b 3 *size"], visible: Tensor | None = None
    ) -> Float[Tensor, "b k d"]:
        patches = patchify(images, self.patch_size, self.tubelet_size)
        if visible is not None:
            patches = gather_tokens(patches, visible)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


def attend(
    q: Float[Tensor, "b m n d"],
    k: Float[Tensor, "b m n d"],
    v: Float[Tensor, "b m n d"],
    bias: Float[Tensor, "*b m n n"] | None,
    scale: float | None = None,
) -> Float[Tensor, "b m n d"]:
    """softmax(q·kᵀ·scale + bias)·v, by torch's fused kernel except in bf16 on a host; the scale is
    d^-0.5 unless it is given."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    # There the fused kernel is several times slower than matrix products, above all backwards.
    logits = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    return (logits if bias is None else logits + bias).softmax(dim=-1) @ v


class Attention(nn.Module):
    """Multi-head self-attention with one qkv projection and, mostly, fused kernels without a map.

    Args:
        qkv_bias: biases of queries, keys and values; BEiT's keys have none (`no_key`).
        qk_scale: factor of the products of queries and keys; None: (channels of a head)^-0.5.
    """

    def __init__(
        self, dim: int, num_heads: int, qkv_bias: QKVBias = "all", qk_scale: float | None = None
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(no_split(dim, num_heads))
        self.num_heads, self.qk_scale = num_heads, qk_scale
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias == "all")
        self.q_bias: nn.Parameter | None = None
        self.v_bias: nn.Parameter | None = None
        if qkv_bias == "no_key":
            self.q_bias = nn.Parameter(torch.zeros(dim))
            self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_bias: RelativePositionBias | None = None

    def project(self, x: Float[Tensor, "b n d"], norm: Made) -> Float[Tensor, "b n 3 d"]:
        """Queries, keys and values of normed tokens, heads concatenated."""
        if self.q_bias is None:
            projected = linear_behind(norm, self.qkv, x)
        else:
            projected = product_behind(norm, x, self.qkv.weight, self._bias())
        return projected.unflatten(2, (3, x.shape[2]))

    def project_rows(
        self, x: Float[Tensor, "b n d"], norm: Made, rows: slice
    ) -> tuple[Float[Tensor, "b k 1 d"], Float[Tensor, "b n 2 d"]]:
        """Queries of the normed tokens `rows` alone, and keys and values of all."""
        sizes, bias = [x.shape[2], 2 * x.shape[2]], self._bias()
        biases = (None, None) if bias is None else bias.split(sizes)
        of_queries, of_others = self.qkv.weight.split(sizes)
        queries = product_behind(norm, x[:, rows], of_queries, biases[0]).unsqueeze(2)
        return queries, product_behind(norm, x, of_others, biases[1]).unflatten(2, (2, -1))

    def _bias(self) -> Float[Tensor, " 3d"] | None:
        if self.q_bias is None or self.v_bias is None:
            return self.qkv.bias
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])

    def heads(self, projected: Float[Tensor, "b n p d"]) -> tuple[Float[Tensor, "b m n c"], ...]:
        """Split each of the P projections, such as queries, keys and values, into heads."""
        return projected.unflatten(3, (self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def mix(
        self,
        q: Float[Tensor, "b m k c"],
        k: Float[Tensor, "b m n c"],
        v: Float[Tensor, "b m n c"],
        bias: Float[Tensor, "*b m k n"] | None,
    ) -> Float[Tensor, "b k d"]:
        """Attention output after the output projection, of the tokens that `q` asks for."""
        mixed = attend(q, k, v, None if bias is None else bias.to(q.dtype), self.qk_scale)
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def class_attention(
        self, qkv: Float[Tensor, "b n 3 d"], bias: Float[Tensor, "*b m n n"] | None
    ) -> Float[Tensor, "b m n"]:
        """How the first token attends to all tokens: one row of each head's map."""
        q, k, _ = self.heads(qkv)
        scale = q.shape[-1] ** -0.5 if self.qk_scale is None else self.qk_scale
        logits = (q[:, :, :1] @ k.transpose(2, 3))[:, :, 0].float() * scale
        if bias is not None:
            logits = logits + bias[..., 0, :]
        return logits.softmax(dim=-1)


def quick_gelu(x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """CLIP's approximation x · sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


class Mlp(nn.Module):
    """Linear, GELU (exact, or CLIP's approximation), linear."""

    def __init__(self, dim: int, hidden: int, activation: Activation = "gelu") -> None:
        super().__init__()
        self.activation = quick_gelu if activation == "quick_gelu" else F.gelu
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "b n d"], norm: Made) -> Float[Tensor, "b n d"]:
        """Of normed tokens."""
        return linear_behind(self.activation, self.fc2, linear_behind(norm, self.fc1, x))


class LayerScale(nn.Module):
    """Learned per-channel scale of a residual branch."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """`x += drop(attn(norm1 x)); x += drop(mlp(norm2 x))`, with taps and early exit.

    Args:
        layer_scale: initial value of the residual scales, or None for no scales.
        qkv_bias: biases of queries, keys and values.
        qk_scale: factor of the products of queries and keys; None: (channels of a head)^-0.5.
        activation: of the MLP.
        norm_eps: of both layer norms.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        *,
        qkv_bias: QKVBias = "all",
        qk_scale: float | None = None,
        activation: Activation = "gelu",
        norm_eps: float = LAYER_NORM_EPS,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, num_heads, qkv_bias, qk_scale)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), activation)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        taps: Collection[TapKind] = (),
        last: bool = False,
        bias: Float[Tensor, "*b m n n"] | None = None,
        keep: tuple[Tensor, Tensor] | None = None,
        rows: slice | None = None,
    ) -> tuple[Tensor, dict[TapKind, Tensor]]:
        """Output and tapped signals.

        Args:
            x: tokens.
            taps: signals to return.
            last: nothing behind this block's taps is needed, so stop at the deepest of them.
            bias: added to the attention logits of every head.
            keep: factors `[B, 1, 1]` for the two residual branches (drop path), or None. On a host
                a branch is computed for the samples that keep it.
            rows: the tokens that somebody reads, which attend to all; the others end here. Not with
                the taps `qkv` and `cls_attention`.
        """
        found: dict[TapKind, Tensor] = {}
        of_attention, of_mlp = (None, None) if keep is None else keep
        kept = samples_kept(of_attention, {"qkv", "cls_attention", "attention"}, taps)
        tokens = x if kept is None else x[kept]
        if kept is not None and bias is not None and bias.dim() == 4:
            bias = bias[kept]
        if rows is None:
            qkv = self.attn.project(tokens, self.norm1)
            if "qkv" in taps:
                found["qkv"] = qkv
            if "cls_attention" in taps:
                found["cls_attention"] = self.attn.class_attention(qkv, bias)
            if last and len(found) == len(taps):
                return x, found
            q, k, v = self.attn.heads(qkv)
        else:
            queries, others = self.attn.project_rows(tokens, self.norm1, rows)
            (q,), (k, v) = self.attn.heads(queries), self.attn.heads(others)
            x, bias = x[:, rows], None if bias is None else bias[..., rows, :]
        attention = self.ls1(self.attn.mix(q, k, v, bias))
        if "attention" in taps:
            found["attention"] = attention
        x = add_branch(x, attention, of_attention, kept)
        if "attention_residual" in taps:
            found["attention_residual"] = x
        if last and len(found) == len(taps):
            return x, found
        kept = samples_kept(of_mlp, {"ffn"}, taps)
        ffn = self.ls2(self.mlp(x if kept is None else x[kept], self.norm2))
        if "ffn" in taps:
            found["ffn"] = ffn
        x = add_branch(x, ffn, of_mlp, kept)
        if "block" in taps:
            found["block"] = x
        return x, found

    def finish(
        self,
        x: Float[Tensor, "b n d"],
        qkv: Float[Tensor, "b n 3 d"],
        bias: Float[Tensor, "m n n"] | None = None,
        rows: Int[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b k d"]:
        """The output from tokens and their queries, keys and values, of `rows` alone if given."""
        q, k, v = self.attn.heads(qkv)
        if rows is not None:
            (q,) = self.attn.heads(gather_tokens(qkv[:, :, 0], rows).unsqueeze(2))
            x = gather_tokens(x, rows)
            bias = None if bias is None else bias[:, rows].transpose(0, 1)
        x = x + self.ls1(self.attn.mix(q, k, v, bias))
        return x + self.ls2(self.mlp(x, self.norm2))


def through(
    blocks: Iterable[nn.Module], x: Float[Tensor, "b n d"], rows: slice
) -> Float[Tensor, "b k d"]:
    """The tokens `rows` behind all blocks; of the last of these nothing else is computed."""
    *earlier, last = blocks
    for block in earlier:
        x, _ = block(x)
    return last(x, rows=rows)[0]


def samples_kept(
    keep: Float[Tensor, "b 1 1"] | None, signals: Collection[TapKind], taps: Collection[TapKind]
) -> Int[Tensor, " k"] | None:
    """The samples for which a branch has to be computed; None: all.

    Args:
        keep: the branch's factors.
        signals: what the branch shows of every sample.
        taps: what is looked at.
    """
    if keep is None or not set(signals).isdisjoint(taps):
        return None
    if keep.device.type != "cpu" or torch.compiler.is_compiling():
        return None  # the host would have to wait for a device to know how many they are
    kept = keep.flatten().nonzero().flatten()
    # With none left, the branch's parameters would get no gradient instead of zeros.
    return kept if 0 < len(kept) < len(keep) else None


def add_branch(
    x: Float[Tensor, "b n d"],
    branch: Float[Tensor, "k n d"],
    keep: Float[Tensor, "b 1 1"] | None,
    kept: Int[Tensor, " k"] | None,
) -> Float[Tensor, "b n d"]:
    """Tokens and a residual branch of all samples, or of those `kept`, scaled by `keep`."""
    if keep is None:
        return x + branch
    if kept is None:
        return x + branch * keep
    dtype = torch.promote_types(x.dtype, branch.dtype)
    return x.to(dtype).index_add(0, kept, (branch * keep[kept]).to(dtype))


def drop_path_keep(
    uniform: Float[Tensor, " b"], rate: float, like: Tensor
) -> Float[Tensor, "b 1 1"]:
    """Per-sample factor of a residual branch: floor(1 - rate + u) / (1 - rate) (spec 4.5)."""
    keep = 1.0 - rate
    return (torch.floor(keep + uniform) / keep)[:, None, None].to(like.dtype)
