"""timm models as backbones: plain ViTs become our own ViT, other transformers are read by hooks,
anything that pools a last feature map (CNNs, Swin) as such; all of them once they are admitted."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

import timm
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.image_size import ImageSize, height_width, plain_size, shown_size
from vistill.models.adapters.admission import admit, first_admitted, in_one_sentence
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.adapters.any_transformer import ModuleBackbone, part_of, same_outputs
from vistill.models.backbone import Backbone, Normalization
from vistill.models.quiet import HUB, quiet
from vistill.models.taps import Own
from vistill.models.vit import VisionTransformer


def timm_backbone(
    name: str, *, pretrained: bool, image_size: ImageSize | None, classifier: bool = False
) -> Backbone:
    """Build a timm model.

    Args:
        name: timm's model name, with or without a weight tag.
        pretrained: load timm's published weights (may download).
        image_size: side of the inputs, or (height, width); None: the model's own.
        classifier: keep the classifier, for the `logits` tap.

    Raises:
        UserError: if timm does not know the name, cannot get the weights, or the model has neither
            blocks of tokens nor a pooled feature map.
    """
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0]}*")[:3]
        near = near or get_close_matches(name, timm.list_models(), n=3, cutoff=0.3)
        raise UserError(f"timm has no model {name!r}; near: {', '.join(near)}")
    with quiet(HUB):
        module = _create(name, pretrained, image_size, {} if classifier else {"num_classes": 0})
    origin = f"timm/{name}, {'published weights' if pretrained else 'random'}"
    arguments: dict[str, Any] = {
        "name": name,
        "image_size": None if image_size is None else plain_size(image_size),
    }
    if classifier:
        if not module.num_classes:
            raise UserError(f"timm/{name} has no classifier to keep")
        arguments["classifier"] = True
    build = {"name": "timm", "args": arguments}
    backbone = read_module(module, f"timm/{name}", image_size, build, logits=classifier)
    backbone.origin, backbone.untrained = origin, not pretrained
    if pretrained:
        backbone.pool_itself()
    return backbone


def read_module(
    module: Any,
    name: str,
    image_size: ImageSize | None,
    build: dict[str, Any] | None,
    *,
    logits: bool = False,
) -> Backbone:
    """A model of timm's making as a backbone: our own ViT where that computes the same.

    Args:
        module: built for pictures of its size.
        name: for messages.
        image_size: side of the inputs, or (height, width); None: the model's own.
        build: how `vistill.models.build` makes it again, or None.
        logits: whether it has a classifier.

    Raises:
        UserError: it is read neither by its blocks nor by its last map.
    """
    given = _Given(module, _size(module, image_size), build, logits)
    blocks = _blocks(module)
    ways: list[Callable[[], Backbone]] = []
    if blocks and isinstance(module, TimmViT):
        ways.append(partial(_plain, given, blocks))
    if blocks:
        ways += [partial(_hooked, given, blocks), partial(_hooked, given, blocks, True)]
    return first_admitted(name, [*ways, partial(_pooled, given)])


def _create(
    name: str, pretrained: bool, image_size: ImageSize | None, classes: dict[str, Any]
) -> Any:
    what = f"the weights of timm/{name} could not be loaded"
    if not pretrained:
        size = "" if image_size is None else f" for pictures of {shown_size(image_size)} pixels"
        what = f"timm/{name} cannot be built{size}"
    with in_one_sentence(what):
        if image_size is not None:
            try:
                return timm.create_model(
                    name, pretrained=pretrained, img_size=plain_size(image_size), **classes
                )
            except TypeError:  # CNNs are built without a size and take any
                pass
        return timm.create_model(name, pretrained=pretrained, **classes)


class _Given(NamedTuple):
    """A module of timm's, and what is asked of it."""

    module: Any
    size: tuple[int, int]
    build: dict[str, Any] | None
    logits: bool

    @property
    def normalization(self) -> Normalization:
        """Statistics of its inputs."""
        config = self.module.pretrained_cfg
        return Normalization(tuple(config["mean"]), tuple(config["std"]))


def _size(module: Any, image_size: ImageSize | None) -> tuple[int, int]:
    if image_size is not None:
        return height_width(image_size)
    # The configured size goes stale when another one is asked for; the patch embedding knows.
    built_for = getattr(getattr(module, "patch_embed", None), "img_size", None)
    height, width = built_for or module.pretrained_cfg["input_size"][1:]
    return height, width


def _blocks(module: nn.Module) -> list[str]:
    """Names of the blocks of a transformer, whose parts are attention and MLP; none of a CNN."""
    blocks = getattr(module, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList):
        return []
    names = [f"blocks.{number}" for number in range(len(blocks))]
    if isinstance(blocks[0], nn.Sequential | nn.ModuleList):  # in stages
        names = [f"{n}.{i}" for n in names for i in range(len(module.get_submodule(n)))]  # type: ignore[arg-type]
    parts = dict(module.get_submodule(names[0]).named_children()) if names else {}
    return names if any(part.startswith(("attn", "mlp")) for part in parts) else []


def _run(module: Any, images: Tensor) -> Own:
    """A whole pass, in the two halves that timm makes of it."""
    tokens = module.forward_features(images)
    pooled = module.forward_head(tokens, pre_logits=True)
    return Own(*(value if isinstance(value, Tensor) else None for value in (tokens, pooled)))


def _behind_hooks(given: _Given, blocks: list[str], channels_last: bool = False) -> ModuleBackbone:
    module, block = given.module, given.module.get_submodule(blocks[0])
    norms = [n for n in ("norm", "fc_norm") if not isinstance(getattr(module, n, _NO), nn.Identity)]
    return ModuleBackbone(
        module,
        blocks=blocks,
        width=module.num_features,
        image_size=given.size,
        num_heads=getattr(getattr(block, "attn", None), "num_heads", 0),
        num_prefix_tokens=getattr(module, "num_prefix_tokens", 0),
        class_token=getattr(module, "cls_token", None) is not None,
        channels_last=channels_last,
        norm="norm" if "norm" in norms else None,
        pool_norm="fc_norm" if "fc_norm" in norms else None,
        attention=part_of(block, "ls1", "attn*gamma_1", "attn*gamma1", "attn"),
        attention_residual=part_of(block, "norm2"),
        mlp=part_of(block, "ls2", "mlp*gamma_2", "mlp*gamma2", "mlp"),
        qkv=part_of(block, "attn"),
        logits=given.logits,
        normalization=given.normalization,
        build=given.build,
    )


_NO = nn.Identity()


def _hooked(given: _Given, blocks: list[str], channels_last: bool = False) -> Backbone:
    hooked = _behind_hooks(given, blocks, channels_last)
    admit(hooked, partial(_run, given.module))
    return hooked


def _pooled(given: _Given) -> Backbone:
    pooled = PooledBackbone(
        given.module,
        image_size=given.size,
        logits=given.logits,
        normalization=given.normalization,
        build=given.build,
    )
    admit(pooled, partial(_run, given.module))
    return pooled


def _plain(given: _Given, blocks: list[str]) -> Backbone:
    """Our own ViT where it has the same parameters and computes the same."""
    hooked = _behind_hooks(given, blocks)
    plain = _as_plain_vit(given.module, hooked)
    if plain is None or not same_outputs(plain, hooked, partial(_run, given.module)):
        raise UserError("it is no plain ViT")
    return plain


def _as_plain_vit(module: Any, hooked: ModuleBackbone) -> VisionTransformer | None:
    """Our own ViT with the same weights, or None where it has other parts."""
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
    return plain
