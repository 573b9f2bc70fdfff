"""Models out of published weight files, recognised by the names of their tensors (spec 11)."""

import math
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

from torch import Tensor

from vistill.errors import UserError
from vistill.models.backbone import Backbone
from vistill.models.files.beit import is_beit, own_names
from vistill.models.files.clip import (
    CLIP_NORMALIZATION,
    clip_names,
    clip_projection,
    is_clip,
)
from vistill.models.files.cnn import cnn_from_state, is_cnn
from vistill.models.files.named_weights import listed, load_named
from vistill.models.files.swin import is_swin, swin_from_state
from vistill.models.files.videomae import ASIDE, clip_vit_from_state, is_of_clips
from vistill.models.files.weight_files import prefixes_of, read_weights
from vistill.models.grids import TABLE, Grid, patch_grid
from vistill.models.layers import CLIP_NORM_EPS, LAYER_NORM_EPS, QKVBias
from vistill.models.positions import PositionRule
from vistill.models.vit import VisionTransformer

_OPTIONS = (
    *("num_heads", "classifier", "branch", "stages", "image_size", "window", "position_rule"),
    *("qk_scale", "model"),
)
_OF_A_MODEL = ("model", "branch", "classifier", "image_size")
_HEADS_OF_LIBRARIES = ("fc.", "classifier.", "head.", "heads.", "head_dist.")
# Pre-training and classification parts that a backbone has no use for.
_PRE_TRAINING = ("decoder_", "decoder.", "feature_model.", "mask_token")
_DROPPED = (*_PRE_TRAINING, "fc_norm.", *ASIDE)
_CLASSIFIER = ("head.", "head_dist.")
# Heads of the published widths; others have 64 channels a head by convention.
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16}


class LoadedWeights(NamedTuple):
    """Weights of a plain ViT, and what in the file was left aside."""

    state: dict[str, Tensor]
    dropped: list[str]


def backbone_from_file(reference: str) -> Backbone:
    """The model of `PATH[,OPTION=VALUE]...` (see `vistill.models.build.load_backbone`).

    Raises:
        UserError: an option is unknown or wrong, or the file holds no model that is known.
    """
    path, options = file_options(reference)
    numbers = {
        name: _number(reference, options, name) for name in ("num_heads", "stages", "window")
    }
    size = size_option(reference, options)
    weights = read_weights(Path(path), options.get("branch"))
    by_timm = weights.by_timm and not _of_published_code(weights.state)
    rule = _rule(reference, options, by_timm=by_timm)
    try:
        model = backbone_from_state(
            weights.state,
            path,
            classifier="classifier" in options,
            image_size=size,
            position_rule=rule,
            qk_scale=_scale(reference, options),
            **numbers,
        )
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    if isinstance(model, VisionTransformer):
        if model.position == "sincos" and "position_rule" not in options:
            model.position_rule = "bicubic"  # MAE's own table, whatever it was saved in
        if "fc_norm.weight" in weights.state:
            model.reads = "the mean of its patch tokens, without the fc_norm of its classifier"
    remarks = [weights.taken, "" if numbers["num_heads"] else _assumed_heads(model)]
    model.origin = ", ".join([f"file {path}", *filter(None, remarks)])
    model.untrained = False
    return model


def file_options(reference: str) -> tuple[str, dict[str, str]]:
    """`PATH[,OPTION=VALUE]...` taken apart.

    Raises:
        UserError: an option is unknown, or does not suit `model`.
    """
    path, *written = reference.split(",")
    options = dict(word.partition("=")[::2] for word in written)
    known = _OF_A_MODEL if "model" in options else _OPTIONS
    unknown = [name for name in options if name not in known]
    if unknown:
        beside = " that go with model=" if "model" in options else ""
        raise UserError(
            f"file:{reference}: {unknown[0]!r} is none of the options{beside} {', '.join(known)}"
        )
    if options.get("classifier", "keep") != "keep":
        raise UserError(f"file:{reference}: classifier can only be 'keep'")
    return path, options


def load_file_into(model: Backbone, reference: str) -> None:
    """Load the file of `PATH,model=NAME[,branch=NAME]` into that model, by the model's own names.

    A classifier of other classes is left aside unless it is asked for.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    path, options = file_options(reference)
    module = getattr(model, "module", model)
    own = module.state_dict()
    weights = read_weights(Path(path), options.get("branch"), partial(prefixes_of, own))
    heads = () if "classifier" in options else _HEADS_OF_LIBRARIES
    state = {
        name: value
        for name, value in weights.state.items()
        if not name.startswith(heads) or (name in own and own[name].shape == value.shape)
    }
    counters = [name for name in own if name.endswith("num_batches_tracked")]
    load_named(module, state, path, [*(n for n in own if n.startswith(heads)), *counters])
    model.origin = f"file {path}" + (f", {weights.taken}" if weights.taken else "")
    model.untrained = False


def _assumed_heads(model: Backbone) -> str:
    """What is said of heads that neither a tensor nor a published size tells."""
    told = not isinstance(model, VisionTransformer) or model.relative_position or model.pre_norm
    return "" if told or model.width in _HEADS else "64 channels a head by convention"


def _number(reference: str, options: dict[str, str], name: str) -> int | None:
    text = options.get(name)
    if text is not None and (not text.isdecimal() or not int(text)):
        raise UserError(f"file:{reference}: {name} must be a whole number, not {text!r}")
    return int(text) if text else None


def _scale(reference: str, options: dict[str, str]) -> float | None:
    text = options.get("qk_scale")
    try:
        scale = None if text is None else float(text)
    except ValueError:
        scale = 0.0
    if scale is not None and not 0 < scale < math.inf:
        raise UserError(f"file:{reference}: qk_scale must be a number above 0, not {text!r}")
    return scale


def _of_published_code(state: dict[str, Tensor]) -> bool:
    """Whether names tell of the code of MAE, TinyMIM, feature distillation or BEiT."""
    return is_beit(state) or any(name.startswith(_PRE_TRAINING) for name in state)


def _rule(reference: str, options: dict[str, str], *, by_timm: bool) -> PositionRule:
    text = options.get("position_rule", "bicubic_antialias" if by_timm else "bicubic")
    if text not in get_args(PositionRule):
        known = " or ".join(get_args(PositionRule))
        raise UserError(f"file:{reference}: position_rule must be {known}, not {text!r}")
    return cast("PositionRule", text)


def size_option(reference: str, options: dict[str, str]) -> Grid | None:
    """Height and width in pixels that a reference to a file says; None: it says nothing.

    Raises:
        UserError: they cannot be read.
    """
    text = options.get("image_size")
    if text is None:
        return None
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise UserError(f"file:{reference}: image_size must be 224 or HEIGHTxWIDTH, not {text!r}")
    return int(sides[0]), int(sides[-1])


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
    image_size: Grid | None = None,
    window: int | None = None,
    position_rule: PositionRule = "bicubic",
    qk_scale: float | None = None,
) -> Backbone:
    """The model that a state dict belongs to, recognised by its names.

    Args:
        stages: of a Swin, build the first ones only.
        window: side of a Swin's windows, where no tensor tells it.
        qk_scale: see `vit_from_state`; a SwinV2 learns its own.
        state, source, num_heads, classifier, image_size, position_rule: see `vit_from_state`.

    Raises:
        UserError: also if an option does not suit the kind of model.
    """
    swin = is_swin(state)
    for name, value in {"stages": stages, "window": window}.items():
        if value is not None and not swin:
            raise UserError(f"{source} is no Swin, for which alone {name}={value} has a meaning")
    if num_heads and (swin or is_cnn(state)):
        kind = "Swin, whose tensors tell its heads" if swin else "CNN, which has no heads"
        raise UserError(f"{source} is a {kind}; leave num_heads={num_heads} out")
    if qk_scale and is_cnn(state):
        raise UserError(f"{source} is a CNN, which has no attention; leave qk_scale out")
    if is_cnn(state):
        return cnn_from_state(state, source, classifier=classifier, image_size=image_size)
    if not swin:
        return vit_from_state(
            state,
            source,
            num_heads,
            classifier=classifier,
            image_size=image_size,
            position_rule=position_rule,
            qk_scale=qk_scale,
        )
    if classifier:
        raise UserError(f"{source} is a Swin, whose classifier cannot be kept")
    return swin_from_state(
        state, source, stages=stages, image_size=image_size, window=window, qk_scale=qk_scale
    )


def vit_from_state(
    state: dict[str, Tensor],
    source: str,
    num_heads: int | None = None,
    *,
    classifier: bool = False,
    image_size: Grid | None = None,
    position_rule: PositionRule = "bicubic",
    qk_scale: float | None = None,
) -> VisionTransformer:
    """A ViT with the sizes that the tensors tell and their values.

    Args:
        state: weights under the names of MAE and timm, of BEiT, of OpenAI's CLIP, or of VideoMAE.
        source: where they come from, for messages.
        num_heads: heads of every block, which only a bias table tells; None: the published count of
            the width, else 64 channels a head where that divides.
        classifier: keep the classifier, for the `logits` tap.
        image_size: height and width of the pictures, where no tensor tells them.
        position_rule: how the table of positions is resampled for another size.
        qk_scale: factor of the products of queries and keys, which no tensor tells; None: (channels
            of a head)^-0.5.

    Raises:
        UserError: if this is no plain ViT, or no tensor tells a size that nobody named; missing and
            unexpected names are listed.
    """
    clip = is_clip(state)
    projection = clip_projection(state) if clip else None
    if clip:
        state, position_rule = clip_names(state), "bicubic"
    missing = [k for k in ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight") if k not in state]
    if missing and any("embeddings.patch_embeddings." in name for name in state):
        raise UserError(
            f"{source} carries the names of transformers; write hf/FOLDER, with the folder of it "
            "and its config.json"
        )
    if missing:
        raise UserError(
            f"{source} is not a plain ViT of the MAE, TinyMIM, DINO, DeiT, BEiT or CLIP layout: "
            f"{listed(missing)} missing; it holds {listed(state)}; say whose weights they are by "
            f"file:{source},model=timm/NAME or, of a module of your own, model=FILE.py:FUNCTION"
        )
    told, state = state, own_names(state) if is_beit(state) else state
    weights, _ = encoder_weights(state, classifier=classifier)
    if classifier and "head.weight" not in weights:
        raise UserError(f"{source} holds no classifier (head.weight)")
    kernel = weights["patch_embed.proj.weight"]
    embed_dim, patch_size = kernel.shape[0], kernel.shape[-1]
    if is_of_clips(weights) and classifier:
        raise UserError(f"{source}: the classifier of a model of clips cannot be kept")
    heads = _num_heads(weights, embed_dim, source, num_heads, clip)
    if is_of_clips(weights):
        clips = clip_vit_from_state(weights, heads, source, image_size, qk_scale)
        load_named(clips, weights, source, optional=("pos_embed", "norm.weight", "norm.bias"))
        return clips
    if image_size is not None and any(side % patch_size for side in image_size):
        raise UserError(
            f"{source}: image_size={image_size[0]}x{image_size[1]} is no multiple of its patches "
            f"of {patch_size} pixels"
        )
    size = image_size and (image_size[0] // patch_size, image_size[1] // patch_size)
    grid, fixed = patch_grid(told, source, size)
    absolute: Literal["sincos", "learned"] = "sincos" if fixed else "learned"
    qkv_bias: QKVBias = "no_key" if "blocks.0.attn.q_bias" in weights else "none"
    model = VisionTransformer(
        image_size=(grid[0] * patch_size, grid[1] * patch_size),
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks.")),
        num_heads=heads,
        mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] / embed_dim,
        class_token="cls_token" in weights,
        position=absolute if "pos_embed" in weights else "none",
        position_rule=position_rule,
        layer_scale=1.0 if "blocks.0.ls1.gamma" in weights else None,
        relative_position=_relative(weights),
        qkv_bias="all" if "blocks.0.attn.qkv.bias" in weights else qkv_bias,
        qk_scale=qk_scale,
        distillation_token="dist_token" in weights,
        pre_norm=clip,
        activation="quick_gelu" if clip else "gelu",
        norm_eps=CLIP_NORM_EPS if clip else LAYER_NORM_EPS,
        num_classes=weights["head.weight"].shape[0] if classifier else 0,
        normalization=CLIP_NORMALIZATION if clip else None,
    )
    load_named(model, weights, source, optional=("norm.weight", "norm.bias"))
    if projection is not None:
        model.keep_projection(projection)
    return model


def _relative(weights: dict[str, Tensor]) -> Literal["shared", "layer"] | None:
    if f"rel_pos_bias.{TABLE}" in weights:
        return "shared"
    return "layer" if f"blocks.0.attn.rel_pos_bias.{TABLE}" in weights else None


def _num_heads(
    weights: dict[str, Tensor], width: int, source: str, told: int | None, clip: bool
) -> int:
    """What a bias table tells, else `told`, the published count of the width, 64 channels a head.

    Raises:
        UserError: the table tells otherwise than `told`, or nothing tells.
    """
    table = next((value.shape[1] for name, value in weights.items() if name.endswith(TABLE)), None)
    if table is not None and told not in (None, table):
        raise UserError(f"{source} has {table} heads, as its bias tables tell, not {told}")
    if heads := table or told:
        return heads
    if clip or width not in _HEADS:
        if width % 64 and not clip:
            raise UserError(
                f"no tensor of {source} tells how many heads its width of {width} is split into: "
                f"write file:{source},num_heads=N"
            )
        return max(1, width // 64)
    return _HEADS[width]
