"""The picture side of open_clip's models as backbones, without the text side.

Plain vision transformers become our own ViT, others are read by hooks, timm's towers as timm's
models and CLIP's ResNets by the map in front of their attention pooling.
"""

import os
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from vistill.errors import UserError, first_line
from vistill.image_size import ImageSize, height_width, plain_size
from vistill.models.adapters.admission import admit, in_one_sentence
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.adapters.any_transformer import ModuleBackbone, part_of, same_outputs
from vistill.models.adapters.timm import read_module
from vistill.models.backbone import Backbone, Normalization
from vistill.models.files.clip import CLIP_NORMALIZATION, clip_names
from vistill.models.files.named_weights import load_named
from vistill.models.files.weight_files import prefixes_of, read_weights
from vistill.models.quiet import HUB, quiet
from vistill.models.taps import Own
from vistill.models.vit import VisionTransformer

_TOWER = "visual."


def open_clip_backbone(
    name: str, *, weights: str, image_size: ImageSize | None, quick_gelu: bool | None = None
) -> Backbone:
    """Build the tower that sees of one of open_clip's models.

    Args:
        name: open_clip's model name, such as `ViT-B-32`.
        weights: one of open_clip's tags for it (may download), `pretrained` for the first of them,
            the path of a checkpoint of such a model, or nothing for random weights.
        image_size: side of the inputs, or (height, width); None: the model's own.
        quick_gelu: whether GELU is approximated; None: as the weights were trained.

    Raises:
        UserError: there is no such model or tag, or the weights do not fit.
    """
    model = model_config(name)
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    known = known_weights(name, weights, tags)
    if quick_gelu is None:
        quick_gelu = known.get("quick_gelu", False) if weights in tags else None
        quick_gelu = model.get("quick_gelu", False) if quick_gelu is None else quick_gelu
    vision = dict(model["vision_cfg"])
    if image_size is not None and not weights:
        vision["image_size"] = height_width(image_size)
    with in_one_sentence(f"open_clip/{name} cannot be built"):
        tower = open_clip.model._build_vision_tower(model["embed_dim"], vision, quick_gelu)
    origin = f"open_clip/{name}, random"
    if weights:
        path = weight_file(name, weights, tags)
        state = read_weights(Path(path), prefixes=partial(prefixes_of, ["logit_scale"])).state
        seen = {k.removeprefix(_TOWER): v.float() for k, v in state.items() if k.startswith(_TOWER)}
        load_named(tower, seen, f"open_clip/{name}:{weights}")
        published = weights in (*tags, "pretrained")
        where = f"published weights {weights}" if published else f"file {os.path.abspath(path)}"
        origin = f"open_clip/{name}, {where}"
    normalization = CLIP_NORMALIZATION
    if known:
        normalization = Normalization(tuple(known["mean"]), tuple(known["std"]))
    size = None if image_size is None else plain_size(image_size)
    arguments = {"name": name, "image_size": size, "quick_gelu": quick_gelu}
    build = {"name": "open_clip", "args": arguments}
    with in_one_sentence(f"open_clip/{name} cannot be read"):
        backbone = _adapt(tower, vision, image_size, build, "quick_gelu" if quick_gelu else "gelu")
    backbone.normalization, backbone.origin = normalization, origin
    backbone.untrained = not weights
    projection = getattr(tower, "proj", None)
    if isinstance(projection, Tensor):
        backbone.keep_projection(projection)
    if weights:
        backbone.pool_itself()
    return backbone


def model_config(name: str) -> dict[str, Any]:
    """What open_clip builds a model from.

    Raises:
        UserError: there is no such model, or no open_clip.
    """
    if find_spec("open_clip") is None:
        raise UserError("open_clip/ models need an extra: pip install 'vistill[teachers]'")
    import open_clip

    names = open_clip.list_models()
    if name not in names:
        near = get_close_matches(name, names, n=3, cutoff=0.3)
        raise UserError(f"open_clip has no model {name!r}; near: {', '.join(near)}")
    return open_clip.get_model_config(name)


def known_weights(name: str, weights: str, tags: list[str]) -> dict[str, Any]:
    """What open_clip knows of the weights that are asked for, else of the first for this model."""
    import open_clip

    tag = weights if weights in tags else next(iter(tags), "")
    return open_clip.get_pretrained_cfg(name, tag)


def weight_file(name: str, weights: str, tags: list[str]) -> str:
    """The path of published weights, which may have to be fetched, or of a file.

    Raises:
        UserError: there are none.
    """
    import open_clip

    tag = next(iter(tags), weights) if weights == "pretrained" else weights
    if Path(tag).is_file():
        return tag
    if tag not in tags:
        near = get_close_matches(tag, tags, n=3, cutoff=0.3) or tags[:3]
        raise UserError(
            f"open_clip/{name}:{tag} is neither a file nor weights that open_clip has; near: "
            f"{', '.join(near) or 'none are published'}"
        )
    try:
        with quiet(HUB):
            return open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, tag))
    except Exception as error:
        raise UserError(
            f"the weights of open_clip/{name}:{tag} could not be loaded: {first_line(error)}"
        ) from error


def _adapt(
    tower: Any,
    vision: dict[str, Any],
    image_size: ImageSize | None,
    build: dict[str, Any],
    activation: Literal["gelu", "quick_gelu"],
) -> Backbone:
    size = image_size or vision["image_size"]
    trunk = getattr(tower, "trunk", None)
    if trunk is not None:
        if image_size is not None and hasattr(trunk, "set_input_size"):
            trunk.set_input_size(img_size=height_width(image_size))
        return read_module(trunk, "its tower", image_size or vision.get("image_size"), build)
    if not hasattr(tower, "transformer"):
        pooled = PooledBackbone(tower, image_size=size, build=build)
        admit(pooled, partial(_run, tower))
        return pooled
    block = tower.transformer.resblocks[0]
    hooked = ModuleBackbone(
        tower,
        blocks="transformer.resblocks",
        width=tower.conv1.out_channels,
        image_size=tuple(tower.image_size),
        num_heads=tower.transformer.resblocks[0].attn.num_heads,
        norm="ln_post" if tower.attn_pool is None else None,
        attention=part_of(block, "ls_1", "ln_attn", "attn"),
        attention_residual="ln_2",
        mlp=part_of(block, "ls_2", "mlp"),
        qkv="attn",
        build=build,
    )
    plain = _as_plain_vit(tower, hooked, activation)
    if plain is None:
        admit(hooked, partial(_run, tower))
    return plain or hooked


def _run(tower: Any, images: Tensor) -> Own:
    """A whole pass; its feature in front of the projection to what text is compared with."""
    projection = getattr(tower, "proj", None)
    if projection is not None:
        tower.proj = None
    try:
        pooled = tower(images)
    finally:
        if projection is not None:
            tower.proj = projection
    pooled = pooled[0] if isinstance(pooled, tuple) else pooled  # CoCa gives tokens beside it
    return Own(None, pooled)


def _as_plain_vit(
    tower: Any, hooked: ModuleBackbone, activation: Literal["gelu", "quick_gelu"]
) -> VisionTransformer | None:
    """The same network as our own ViT, or None where it has parts that ours has not."""
    if not isinstance(tower.ln_pre, nn.LayerNorm):
        return None
    named: dict[str, Tensor] = {f"{_TOWER}{k}": v for k, v in tower.state_dict().items()}
    state = clip_names(named)
    plain = VisionTransformer(
        image_size=hooked.image_size,
        patch_size=tower.patch_size[0],
        embed_dim=hooked.width,
        depth=hooked.depth,
        num_heads=hooked.num_heads[0],
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / hooked.width,
        position="learned",
        position_rule="bicubic_antialias",
        pre_norm=True,
        activation=activation,
        norm_eps=tower.ln_pre.eps,
    )
    own = plain.state_dict()
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in own.items()}:
        return None
    plain.load_state_dict(state)
    return plain if same_outputs(plain, hooked) else None
