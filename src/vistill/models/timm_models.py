"""timm models as backbones: plain ViTs become our own ViT, other transformers are read by hooks,
anything that pools a last feature map (CNNs, Swin) as such."""

from typing import Any

import timm
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import nn

from vistill.errors import UserError
from vistill.models.backbone import Backbone, Normalization
from vistill.models.hooked import ModuleBackbone, keep_true_taps, part_of, same_outputs
from vistill.models.hub import quiet_hub
from vistill.models.pooled import PooledBackbone
from vistill.models.vit import VisionTransformer


def timm_backbone(
    name: str, *, pretrained: bool, image_size: int | None, classifier: bool = False
) -> Backbone:
    """Build a timm model.

    Args:
        name: timm's model name, with or without a weight tag.
        pretrained: load timm's published weights (may download).
        image_size: side of the inputs; None: the model's own.
        classifier: keep the classifier, for the `logits` tap.

    Raises:
        UserError: if timm does not know the name, cannot get the weights, or the model has neither
            transformer blocks nor a pooled feature map.
    """
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0]}*")[:3] or _nearest(name)
        raise UserError(f"timm has no model {name!r}; near: {', '.join(near)}")
    try:
        with quiet_hub():
            module = _create(name, pretrained, image_size, {} if classifier else {"num_classes": 0})
    except UserError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"the weights of timm/{name} could not be loaded: {reason}") from error
    origin = f"timm/{name}, {'published weights' if pretrained else 'random'}"
    arguments: dict[str, Any] = {"name": name, "image_size": image_size}
    if classifier:
        if not module.num_classes:
            raise UserError(f"timm/{name} has no classifier to keep")
        arguments["classifier"] = True
    build = {"name": "timm", "args": arguments}
    if not has_transformer_blocks(module):
        config = module.pretrained_cfg
        return PooledBackbone(
            module,
            image_size=image_size or tuple(config["input_size"][1:]),
            logits=classifier,
            normalization=Normalization(tuple(config["mean"]), tuple(config["std"])),
            origin=origin,
            build=build,
        )
    return adapted(module, origin, build, logits=classifier)


def adapted(
    module: Any, origin: str, build: dict[str, Any] | None, *, logits: bool = False
) -> Backbone:
    """A timm transformer as our own ViT where that computes the same, else behind hooks."""
    hooked = _hooked(module, origin, build, logits)
    if isinstance(module, TimmViT):
        plain = _as_plain_vit(module, hooked)
        if plain is not None:
            plain.origin = origin
            return plain
    keep_true_taps(hooked)
    return hooked


def _create(name: str, pretrained: bool, image_size: int | None, classes: dict[str, Any]) -> Any:
    if image_size is not None:
        try:
            return timm.create_model(name, pretrained=pretrained, img_size=image_size, **classes)
        except TypeError as error:  # CNNs are built without a size and take any
            too_strict = error
    module = timm.create_model(name, pretrained=pretrained, **classes)
    if image_size is not None and has_transformer_blocks(module):
        problem = f"timm/{name} cannot be built for images of {image_size} pixels"
        raise UserError(problem) from too_strict
    return module


def has_transformer_blocks(module: nn.Module) -> bool:
    blocks = getattr(module, "blocks", None)
    return isinstance(blocks, nn.Sequential | nn.ModuleList) and hasattr(blocks[0], "attn")


def _nearest(name: str) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(name, timm.list_models(), n=3, cutoff=0.3)


def _hooked(module: Any, origin: str, build: dict[str, Any] | None, logits: bool) -> ModuleBackbone:
    block = module.blocks[0]
    config = module.pretrained_cfg
    # The configured size goes stale when another one is asked for; the patch embedding knows.
    size = getattr(module.patch_embed, "img_size", None) or config["input_size"][1:]
    return ModuleBackbone(
        module,
        blocks="blocks",
        width=module.num_features,
        image_size=tuple(size),
        num_heads=getattr(block.attn, "num_heads", 0),
        num_prefix_tokens=getattr(module, "num_prefix_tokens", 0),
        norm="norm" if isinstance(getattr(module, "norm", None), nn.LayerNorm) else None,
        attention=part_of(block, "ls1", "attn*gamma_1", "attn"),
        attention_residual=part_of(block, "norm2"),
        mlp=part_of(block, "ls2", "mlp*gamma_2", "mlp"),
        qkv="attn",
        logits=logits,
        normalization=Normalization(tuple(config["mean"]), tuple(config["std"])),
        origin=origin,
        build=build,
    )


def _as_plain_vit(module: Any, hooked: ModuleBackbone) -> VisionTransformer | None:
    """The same network as our own ViT, or None where it has parts that ours has not."""
    state = module.state_dict()
    block: Any = module.blocks[0]
    scale = getattr(getattr(block, "ls1", None), "gamma", None)
    plain = VisionTransformer(
        image_size=hooked.image_size,
        patch_size=module.patch_embed.patch_size[0],
        embed_dim=hooked.width,
        depth=hooked.depth,
        num_heads=hooked.num_heads[0],
        mlp_ratio=block.mlp.fc1.out_features / hooked.width,
        class_token="cls_token" in state,
        position="learned" if "pos_embed" in state else "none",
        position_rule="bicubic_antialias",
        layer_scale=None if scale is None else 1.0,
        qkv_bias="none" if block.attn.qkv.bias is None else "all",
        distillation_token="dist_token" in state,
        pre_norm="norm_pre.weight" in state,
        activation="quick_gelu" if "quick" in type(block.mlp.act).__name__.lower() else "gelu",
        norm_eps=block.norm1.eps,
        num_classes=module.num_classes if "head.weight" in state else 0,
        normalization=hooked.normalization,
    )
    own = plain.state_dict()
    norm = {name: own[name] for name in ("norm.weight", "norm.bias") if name not in state}
    state |= norm
    same_names = {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in own.items()}
    if not same_names:
        return None
    plain.load_state_dict(state)
    return plain if same_outputs(plain, hooked) else None
