"""Published weight files, recognised by their keys and loaded without unpickling code (spec 11)."""

import argparse
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from vistill.errors import UserError
from vistill.models.backbone import Backbone
from vistill.models.beit import is_beit, own_names
from vistill.models.clip import CLIP_NORMALIZATION, clip_names, is_clip
from vistill.models.layers import CLIP_NORM_EPS, LAYER_NORM_EPS, QKVBias
from vistill.models.positions import sincos_2d
from vistill.models.torchscript import archive_root, read_torchscript
from vistill.models.videomae_files import ASIDE, clip_vit_from_state, is_of_clips
from vistill.models.vit import VisionTransformer

# The wrappers that MAE, TinyMIM, DeiT and their descendants put around a state dict.
_WRAPPERS = ("model", "state_dict", "module")
_PREFIXES = ("module.", "backbone.", "encoder.")
# What the checkpoints of feature distillation put in front of the names of their teacher.
_TEACHER = "feature_model."
# Pre-training and classification parts that a backbone has no use for.
_DROPPED = (
    "decoder_",
    "decoder.",
    _TEACHER,
    "mask_token",
    "fc_norm.",
    *ASIDE,
)
_CLASSIFIER = ("head.", "head_dist.")
# Heads of the published sizes; other widths get 64 channels a head.
_HEADS = {192: 3, 1280: 16}
_TABLE = "relative_position_bias_table"


# `torch.load` fills no other dictionary, so the settings of yacs are read as this one.
_ALLOWED: list[Any] = [argparse.Namespace, (OrderedDict, "yacs.config.CfgNode")]


class LoadedWeights(NamedTuple):
    """Weights of a plain ViT, and what in the file was left aside."""

    state: dict[str, Tensor]
    dropped: list[str]


def read_state_dict(path: Path, branch: str = "student") -> dict[str, Tensor]:
    """Tensors of a `.safetensors`, PyTorch or TorchScript file, unwrapped and without prefixes.

    Nothing of a TorchScript archive is run. PyTorch files are read with `weights_only=True`; of
    other classes only `argparse.Namespace` and yacs' `CfgNode` (training settings of MAE and of
    feature distillation) may occur; the latter is read as a dictionary.

    Args:
        path: the file.
        branch: which network is read where the file holds a `student` and a `teacher` (EsViT,
            feature distillation).

    Raises:
        UserError: if the file is missing, unreadable, unsafe or holds no tensors.
    """
    if not path.is_file():
        raise UserError(f"there is no weight file {path}")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        elif (root := archive_root(path)) is not None:
            content = read_torchscript(path, root)
        else:
            with torch.serialization.safe_globals(_ALLOWED):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot read weights from {path}: {reason}") from error
    wrappers = (*_WRAPPERS, branch)
    while isinstance(content, dict):
        inner = next((content[key] for key in wrappers if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no state dict")
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise UserError(f"{path} holds no tensors")
    if branch == "teacher":
        kept = {k: v for k, v in state.items() if k.startswith(_TEACHER)}
        state = {k.removeprefix(_TEACHER): v for k, v in kept.items()} or state
    for prefix in _PREFIXES:
        if any(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def encoder_weights(state: dict[str, Tensor], *, classifier: bool = False) -> LoadedWeights:
    """Split a state dict into the plain ViT's weights and the rest."""
    aside = _DROPPED if classifier else _DROPPED + _CLASSIFIER
    dropped = [name for name in state if name.startswith(aside)]
    return LoadedWeights({k: v for k, v in state.items() if k not in dropped}, dropped)


def backbone_from_state(
    state: dict[str, Tensor],
    source: str,
    num_heads: int | None = None,
    *,
    classifier: bool = False,
    stages: int | None = None,
) -> Backbone:
    """The model that a state dict belongs to, recognised by its names.

    Args:
        stages: of a Swin, build the first ones only.
        state, source, num_heads, classifier: see `vit_from_state`.

    Raises:
        UserError: also if an option does not suit the kind of model.
    """
    from vistill.models.cnn_files import cnn_from_state, is_cnn
    from vistill.models.swin import is_swin, swin_from_state

    if is_cnn(state):
        if num_heads or stages is not None:
            raise UserError(f"{source} is a CNN, for which num_heads and stages mean nothing")
        return cnn_from_state(state, source, classifier=classifier)
    if not is_swin(state):
        if stages is not None:
            raise UserError(f"{source} is no Swin, which alone can be cut after stage {stages}")
        return vit_from_state(state, source, num_heads, classifier=classifier)
    if classifier or num_heads:
        raise UserError(f"{source} is a Swin, for which num_heads and classifier cannot be given")
    model, weights = swin_from_state(state, stages=stages)
    optional = () if stages is None else ("norm.weight", "norm.bias")
    load_named(model.module, weights, source, optional=optional)
    return model


def vit_from_state(
    state: dict[str, Tensor],
    source: str,
    num_heads: int | None = None,
    *,
    classifier: bool = False,
) -> VisionTransformer:
    """A ViT with the sizes that the tensors tell and their values.

    Args:
        state: weights under the names of MAE and timm, of BEiT, of OpenAI's CLIP, or of VideoMAE.
        source: where they come from, for messages.
        num_heads: heads of every block, which only a bias table tells; None: the published count of
            the width (192: 3, 1280: 16), else 64 channels a head.
        classifier: keep the classifier, for the `logits` tap.

    Raises:
        UserError: if this is no plain ViT; missing and unexpected names are listed.
    """
    clip = is_clip(state)
    if clip:
        state = clip_names(state)
    elif is_beit(state):
        state = own_names(state)
    weights, _ = encoder_weights(state, classifier=classifier)
    if classifier and "head.weight" not in weights:
        raise UserError(f"{source} holds no classifier (head.weight)")
    missing = [k for k in ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight") if k not in state]
    if missing:
        raise UserError(
            f"{source} is not a plain ViT of the MAE, TinyMIM, DINO, DeiT, BEiT or CLIP layout: "
            f"{_listed(missing)} missing; it holds {_listed(state)}"
        )
    if is_of_clips(weights):
        if classifier:
            raise UserError(f"{source}: the classifier of a model of clips cannot be kept")
        width = weights["patch_embed.proj.weight"].shape[0]
        clips = clip_vit_from_state(weights, num_heads or _num_heads(weights, width))
        load_named(clips, weights, source, optional=("pos_embed", "norm.weight", "norm.bias"))
        return clips
    kernel = weights["patch_embed.proj.weight"]
    embed_dim, patch_size = kernel.shape[0], kernel.shape[-1]
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    class_token, distilled = "cls_token" in weights, "dist_token" in weights
    side = _grid_side(weights, source)
    table = weights.get("pos_embed")
    qkv_bias: QKVBias = "no_key" if "blocks.0.attn.q_bias" in weights else "none"
    model = VisionTransformer(
        image_size=side * patch_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads or _num_heads(weights, embed_dim),
        mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] / embed_dim,
        class_token=class_token,
        position="none" if table is None else _position(table, side, class_token, distilled),
        layer_scale=1.0 if "blocks.0.ls1.gamma" in weights else None,
        relative_position=_relative(weights),
        qkv_bias="all" if "blocks.0.attn.qkv.bias" in weights else qkv_bias,
        distillation_token=distilled,
        pre_norm=clip,
        activation="quick_gelu" if clip else "gelu",
        norm_eps=CLIP_NORM_EPS if clip else LAYER_NORM_EPS,
        num_classes=weights["head.weight"].shape[0] if classifier else 0,
        normalization=CLIP_NORMALIZATION if clip else None,
    )
    load_named(model, weights, source, optional=("norm.weight", "norm.bias"))
    return model


def _relative(weights: dict[str, Tensor]) -> Literal["shared", "layer"] | None:
    if f"rel_pos_bias.{_TABLE}" in weights:
        return "shared"
    return "layer" if f"blocks.0.attn.rel_pos_bias.{_TABLE}" in weights else None


def _num_heads(weights: dict[str, Tensor], embed_dim: int) -> int:
    """What a bias table tells, else the published count of the width, else 64 channels a head."""
    for name, value in weights.items():
        if name.endswith(_TABLE):
            return value.shape[1]
    return _HEADS.get(embed_dim, max(1, embed_dim // 64))


def _grid_side(weights: dict[str, Tensor], source: str) -> int:
    """Rows of patches, from the table of absolute or relative positions; 14 where there is none."""
    class_token = "cls_token" in weights
    for name, value in weights.items():
        if name == "pos_embed":
            patches = value.shape[1] - int(class_token) - int("dist_token" in weights)
            side = round(patches**0.5)
            if side * side != patches:
                raise UserError(
                    f"{source}: pos_embed has {patches} patch positions, which is no square grid"
                )
            return side
        if name.endswith(_TABLE):
            offsets = value.shape[0] - 3 * class_token
            side = (round(offsets**0.5) + 1) // 2
            if (2 * side - 1) ** 2 != offsets:
                raise UserError(f"{source}: {name} has {offsets} offsets, which is no square grid")
            return side
    return 14


def _position(
    table: Tensor, side: int, class_token: bool, distilled: bool
) -> Literal["sincos", "learned"]:
    """Whether a table is the fixed one of MAE."""
    if table.shape[2] % 4 or distilled:
        return "learned"
    fixed = sincos_2d(table.shape[2], (side, side), int(class_token))
    return "sincos" if torch.allclose(table.double(), fixed, atol=1e-4) else "learned"


def load_named(
    model: torch.nn.Module,
    weights: dict[str, Tensor],
    source: str,
    optional: Iterable[str] = (),
) -> None:
    """Load weights strictly and report every mismatch by name.

    Args:
        optional: names that may be missing (fine-tuned files have no final norm).

    Raises:
        UserError: if names or shapes differ.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in weights and name not in set(optional)]
    unexpected = [name for name in weights if name not in own]
    shapes = [
        f"{name} is {list(weights[name].shape)}, not {list(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    problems = []
    if missing:
        problems.append(f"missing {_listed(missing)}")
    if unexpected:
        problems.append(f"unexpected {_listed(unexpected)}")
    if shapes:
        problems.append(_listed(shapes))
    if problems:
        raise UserError(f"{source} does not fit the model: {'; '.join(problems)}")
    model.load_state_dict(weights, strict=False)


def _listed(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
