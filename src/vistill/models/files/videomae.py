"""Weights of VideoMAE and AMD, published ones and those of the transformers library, in and out
(spec amd 12). Published files hold no position table; it follows from the size of the clips."""

import math
import re
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.models.backbone import Normalization
from vistill.models.files.beit import beit_names
from vistill.models.layers import QKVBias
from vistill.models.positions import resize_clip_table, sincos_1d
from vistill.models.vit import VisionTransformer

FRAMES, SIDE = 16, 224
"""What the published models of tubes were trained on; UMT's, of single frames, on half as many."""

# Parts of pre-training that belong to no encoder; read_state_dict has taken `encoder.` away.
ASIDE = ("encoder_to_decoder.", "projection_heads.", "generators.")

# `TrainedVideoMAE`, `TrainedAMD` and `TrainedUMT` to the names of their published checkpoints.
_TRAINING = (
    (r"^student\.", "encoder."),
    (r"^projections\.(\d+)\.", r"encoder.projection_heads.\1."),
    (r"^decoders\.layers\.(\d+)\.", r"clip_decoder.\1."),
    (r"^painter\.decoder\.mask_token$", "mask_token"),
    (r"^painter\.decoder\.embed\.", "encoder_to_decoder."),
    (r"^painter\.decoder\.pred\.", "decoder.head."),
    (r"^painter\.decoder\.", "decoder."),
)
# The transformers library to vistill's own names.
_TRANSFORMERS = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "norm."),
)


def umt_grid(patch_size: int) -> tuple[int, int, int]:
    """Slots, rows and columns of the clips that UMT's published models were pre-trained on."""
    return (8, 16, 16) if patch_size == 14 else (8, 14, 14)


def is_of_clips(state: dict[str, Tensor]) -> bool:
    """Whether a state dict embeds tubes of frames, as VideoMAE, AMD and their like do."""
    kernel = state.get("patch_embed.proj.weight")
    return kernel is not None and kernel.dim() == 5


def clip_vit_from_state(
    weights: dict[str, Tensor],
    num_heads: int,
    source: str,
    image_size: tuple[int, int] | None = None,
    qk_scale: float | None = None,
) -> VisionTransformer:
    """A ViT of clips with the sizes that the tensors tell; its weights are still fresh.

    A fixed table follows from the size of the clips, which no weight depends on: 16 frames of 224
    pixels, of models of single frames 8, as published, until the model is resized. A table in the
    file (UMT's) tells the frames, and whether it was interpolated.

    Args:
        weights: an encoder's, under vistill's names.
        num_heads: of every block, which no tensor tells.
        source: where they come from, for messages.
        image_size: height and width of the frames; None: 224.
        qk_scale: of the attention, which no tensor tells; None: the usual one.

    Raises:
        UserError: the table in the file is not of frames of such a size.
    """
    kernel = weights["patch_embed.proj.weight"]
    width, _, tubelet_size, patch_size, _ = kernel.shape
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    qkv_bias: QKVBias = "no_key" if "blocks.0.attn.q_bias" in weights else "none"
    size = image_size or (SIDE // patch_size * patch_size,) * 2
    frames = -(-FRAMES // tubelet_size) * tubelet_size if tubelet_size > 1 else FRAMES // 2
    class_token, table = "cls_token" in weights, weights.get("pos_embed")
    if table is not None:
        patches = (size[0] // patch_size) * (size[1] // patch_size)
        slots, over = divmod(table.shape[1] - class_token, patches)
        if over or not slots:
            raise UserError(
                f"{source}: pos_embed has {table.shape[1] - class_token} places, which are no "
                f"frames of {size[0]} x {size[1]} pixels; write "
                f"file:{source},image_size=HEIGHTxWIDTH"
            )
        frames = slots * tubelet_size
    fixed, table_grid = True, None
    if table is not None:
        # UMT's fine-tuned classifiers of other clips than those of its pre-training.
        base = umt_grid(patch_size)
        own = (frames // tubelet_size, size[0] // patch_size, size[1] // patch_size)
        interpolated = not class_token and _is_fixed(table, base, own)
        table_grid = base if interpolated and base != own else None
        fixed = interpolated or _is_fixed(table)
    return VisionTransformer(
        image_size=size,
        patch_size=patch_size,
        embed_dim=width,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] / width,
        class_token=class_token,
        position="sincos" if fixed else "learned",
        table_grid=table_grid,
        layer_scale=1.0 if "blocks.0.ls1.gamma" in weights else None,
        tubelet_size=tubelet_size,
        num_frames=frames,
        qkv_bias="all" if "blocks.0.attn.qkv.bias" in weights else qkv_bias,
        qk_scale=qk_scale,
    )


def _is_fixed(
    table: Tensor, base: tuple[int, int, int] | None = None, own: tuple[int, int, int] = (1, 1, 1)
) -> bool:
    """Whether a table is the sine-cosine one of its length, or that of `base` interpolated."""
    if table.is_meta:
        return False
    fixed = sincos_1d(table.shape[2], table.shape[1] if base is None else math.prod(base))
    if base is not None:
        fixed = resize_clip_table(fixed, 0, base, own)
    return torch.allclose(table.double(), fixed, atol=1e-4)


def published_encoder(vit: VisionTransformer) -> dict[str, Tensor]:
    """The weights under the names of a VideoMAE pre-training checkpoint.

    Raises:
        UserError: the model is none of VideoMAE's kind.
    """
    require_plain(vit, "VideoMAE", ("sincos",))
    if vit.table_grid not in (None, (vit.slots, *vit.grid)):
        raise UserError("VideoMAE's files hold no table, and this model's is interpolated")
    return published_names({f"student.{name}": value for name, value in vit.state_dict().items()})


def require_plain(vit: VisionTransformer, whose: str, positions: Collection[str]) -> None:
    """
    Raises:
        UserError: the model is none that the published files of `whose` method can hold.
    """
    if vit.tubelet_size is None or vit.num_prefix_tokens or vit.position not in positions:
        table = "fixed table" if positions == ("sincos",) else "table of positions"
        raise UserError(f"{whose}'s files hold models of clips with a {table} and no class token")
    if vit.qkv_bias == "all":
        raise UserError(f"{whose}'s files hold models without a bias of the keys")
    if vit.qk_scale is not None:
        raise UserError(f"{whose}'s files do not tell of qk_scale={vit.qk_scale:g}")


def published_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the trained module of VideoMAE, AMD or UMT under the names of its published
    checkpoints.

    Position tables and the generators' mask tokens, which those do not hold, are left out.
    """
    renamed = {}
    for name, value in beit_names(state).items():
        if name.endswith("pos_embed") or re.match(r"generators\.\d+\.mask_token$", name):
            continue
        for pattern, replacement in _TRAINING:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def vit_of_transformers(module: nn.Module, normalization: Normalization) -> VisionTransformer:
    """The ViT that computes what the library's `VideoMAEModel` computes, with its weights.

    Raises:
        UserError: the model has parts that VideoMAE has not.
    """
    config: Any = module.config
    if config.hidden_act != "gelu":
        raise UserError(f"VideoMAE has exact GELUs, not hidden_act={config.hidden_act!r}")
    weights = _from_transformers(module.state_dict())
    vit = VisionTransformer(
        image_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_ratio=config.intermediate_size / config.hidden_size,
        class_token=False,
        tubelet_size=config.tubelet_size,
        num_frames=config.num_frames,
        qkv_bias="no_key" if any(n.endswith(".attn.q_bias") for n in weights) else "none",
        norm_eps=config.layer_norm_eps,
        normalization=normalization,
    )
    found = vit.load_state_dict(weights, strict=False)
    missing = [n for n in found.missing_keys if n not in ("pos_embed", "norm.weight", "norm.bias")]
    if missing or found.unexpected_keys:
        raise UserError(
            f"this VideoMAE has other parts than vistill's: {_few(missing)} missing, "
            f"{_few(found.unexpected_keys)} unexpected"
        )
    return vit


def _from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, replacement in _TRANSFORMERS:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    for name in [n for n in renamed if n.endswith(".attention.attention.query.weight")]:
        old = name.removesuffix("query.weight")
        new = old.replace(".attention.attention.", ".attn.")
        parts = [renamed.pop(f"{old}{part}.weight") for part in ("query", "key", "value")]
        renamed[f"{new}qkv.weight"] = torch.cat(parts)
        for part, short in (("query", "q"), ("value", "v")):
            # The library once called them as the published files do.
            for bias in (f"{old}{part}.bias", f"{old}{short}_bias"):
                if bias in renamed:
                    renamed[f"{new}{short}_bias"] = renamed.pop(bias)
    return renamed


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") or "nothing"
