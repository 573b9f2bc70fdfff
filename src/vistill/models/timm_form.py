"""How a backbone is had in timm: the arguments of `timm.create_model` under which its weights load
with `strict=True`, and the expression that gives the feature that vistill measures."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vistill.models.adapters.any_cnn import PooledBackbone, switched
from vistill.models.adapters.any_transformer import ModuleBackbone
from vistill.models.backbone import Backbone
from vistill.models.files.beit import beit_names
from vistill.models.layers import CLIP_NORM_EPS, LAYER_NORM_EPS
from vistill.models.swin import SwinBackbone
from vistill.models.vit import VisionTransformer

MODEL = "model(x)"
_TOLERANCE = 1e-4
_POOLS: tuple[dict[str, Any], ...] = (
    {},
    {"global_pool": "avg", "fc_norm": False},
    {"global_pool": "avg", "use_fc_norm": False},
    {"global_pool": "avg"},
)
"""How families of timm are told to average the patch tokens behind their final norm."""

_CLASSIFIER_POOLS: tuple[dict[str, Any], ...] = (
    {},
    {"global_pool": "avg"},
    {"global_pool": "token"},
    {"global_pool": "avg", "fc_norm": True},
    {"global_pool": "avg", "use_fc_norm": True},
)
"""How they are told to classify the class token, or the mean of the patches behind a norm."""


class TimmForm(NamedTuple):
    """A backbone in timm.

    Attributes:
        arguments: of `timm.create_model`.
        feature: expression of the loaded `model` and normalised pictures `x` that gives what
            `Backbone.pooled` gives; None where timm has none.
    """

    arguments: dict[str, Any]
    feature: str | None


def inner_module(backbone: Backbone) -> nn.Module:
    """The module whose parameter names the outside world knows: behind an adapter, its model."""
    if isinstance(backbone, ModuleBackbone | PooledBackbone | SwinBackbone):
        return backbone.module
    return backbone


def carries_beit_names(backbone: Backbone) -> bool:
    """Whether the backbone is saved under BEiT's names: it has parts that no timm ViT has."""
    return isinstance(backbone, VisionTransformer) and (
        backbone.relative_position is not None or backbone.qkv_bias == "no_key"
    )


def exported_state(backbone: Backbone) -> dict[str, Tensor]:
    """The weights under the names that the outside world knows."""
    state = inner_module(backbone).state_dict()
    if isinstance(backbone, SwinBackbone):  # a shared bias network is written once per block
        return {name: value.clone() for name, value in state.items()}
    return beit_names(state) if carries_beit_names(backbone) else state


def timm_form(backbone: Backbone) -> TimmForm | None:
    """How timm builds the same network, or None where it has none.

    Models of timm itself are built anew, on the device of `backbone`, and compared with it.
    """
    if isinstance(backbone, SwinBackbone):
        build = backbone.timm_build
        return None if build is None else TimmForm(build, MODEL)
    if isinstance(backbone, VisionTransformer):
        return _vit_form(backbone)
    if backbone.build is None or backbone.build["name"] != "timm":
        return None
    given = backbone.build["args"]
    classes = {} if given.get("classifier") else {"num_classes": 0}
    asked = {"model_name": given["name"], **classes}
    first: TimmForm | None = None
    with switched(backbone, training=False):
        images, expected = _seen(backbone, backbone.pooled)
        for arguments, twin in _twins(asked, given["image_size"], exported_state(backbone)):
            twin.to(images.device)
            places = _features(backbone) if first is None else (MODEL,)
            found = next((p for p in places if _agrees(p, twin, images, expected)), None)
            form = TimmForm(arguments, found)
            if found == MODEL or given.get("classifier"):
                return form
            first = first or form
    return first


class TimmClassifier(NamedTuple):
    """A backbone with its head as one model of timm, whose output is the class scores.

    Attributes:
        arguments: of `timm.create_model`.
        state: all weights, under timm's names.
        names: timm's names of `head.*`, `fc_norm.*` and whatever else is called otherwise here.
    """

    arguments: dict[str, Any]
    state: dict[str, Tensor]
    names: dict[str, str]


def timm_classifier(
    backbone: Backbone, head: dict[str, Tensor], classify: Callable[[Tensor], Tensor]
) -> TimmClassifier | None:
    """How timm builds a backbone with a head behind it, or None where it has no such model.

    The model is built and compared with `classify`.

    Args:
        backbone: in front of the head.
        head: `head.*` and, where the mean is normalised, `fc_norm.*`.
        classify: class scores of normalised pictures.
    """
    import timm

    asked = _classifier_arguments(backbone)
    if asked is None:
        return None
    own = {k: v.detach().cpu() for k, v in exported_state(backbone).items()}
    told = {}
    if isinstance(backbone, VisionTransformer):
        own = {k: v for k, v in own.items() if not k.startswith(("head.", "head_dist."))}
        if backbone.dist_token is not None:  # timm's distilled model has a head of each token
            asked |= {"model_name": "vit_tiny_patch16_224", "reg_tokens": 1}
            own["reg_token"], told = own.pop("dist_token"), {"dist_token": "reg_token"}
    size = asked.pop("img_size", None)
    sizes: tuple[dict[str, Any], ...] = ({"img_size": size}, {}) if size is not None else ({},)
    with switched(backbone, training=False):
        images, expected = _seen(backbone, classify)
        images, expected = images.cpu(), expected.cpu()
        for pool, one in ((pool, one) for pool in _CLASSIFIER_POOLS for one in sizes):
            arguments = asked | one | pool | {"num_classes": len(head["head.weight"])}
            try:
                twin = timm.create_model(**arguments)
            except Exception:  # families refuse what they do not know in ways of their own
                continue
            found = _merged(twin.state_dict(), own, head)
            if found is None:
                continue
            state, names = found
            twin.load_state_dict(state, strict=True)
            if _agrees(MODEL, twin.eval(), images, expected):
                return TimmClassifier(arguments, state, names | told)
    return None


def _classifier_arguments(backbone: Backbone) -> dict[str, Any] | None:
    if isinstance(backbone, SwinBackbone):
        return None if backbone.timm_build is None else dict(backbone.timm_build)
    if isinstance(backbone, VisionTransformer):
        return _vit_arguments(backbone)
    build = backbone.build
    if build is None or build["name"] != "timm" or build["args"].get("classifier"):
        return None
    return {"model_name": build["args"]["name"], "img_size": build["args"]["image_size"]}


def _merged(
    theirs: dict[str, Tensor], own: dict[str, Tensor], head: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """All weights under timm's names, and these of the head's; None where something is left."""
    shape = head["head.weight"].shape
    added = theirs.keys() - own.keys()
    linear = [k for k in added if k.endswith("weight") and theirs[k].shape[:2] == shape]
    if len(linear) != 1 or theirs[linear[0]].numel() != head["head.weight"].numel():
        return None
    prefix = linear[0].removesuffix("weight")
    names = {"head.weight": linear[0], "head.bias": f"{prefix}bias"}
    names |= {name: name for name in head if name.startswith("fc_norm.")}
    kept = {k: v for k, v in own.items() if k in theirs or not k.startswith("norm.")}
    placed = {
        name: head[ours].reshape(theirs[name].shape)
        for ours, name in names.items()
        if name in theirs
    }
    state = kept | placed
    same = {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in theirs.items()}
    return (state, names) if same and len(placed) == len(names) else None


def _twins(
    asked: dict[str, Any], image_size: Any, state: dict[str, Tensor]
) -> Iterator[tuple[dict[str, Any], nn.Module]]:
    """Models of timm, by pooling, that load `state` with `strict=True`."""
    import timm

    for pool in _POOLS:
        for size in ({"img_size": image_size}, {}) if image_size is not None else ({},):
            arguments = asked | size | pool
            try:
                twin = timm.create_model(**arguments)
                twin.load_state_dict(state, strict=True)
            except Exception:  # families refuse what they do not know in ways of their own
                continue
            yield arguments, twin.eval()
            break


def _seen(backbone: Backbone, compute: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Two random pictures and what `compute` makes of them."""
    like = next(backbone.parameters())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *backbone.image_size, generator=generator).to(like)
    with torch.no_grad():
        return images, compute(images)


def _features(backbone: Backbone) -> tuple[str, ...]:
    """Where timm may have the feature."""
    return (
        MODEL,
        "model.forward_head(model.forward_features(x), pre_logits=True)",
        "model.forward_features(x).mean((2, 3))",
        "model.forward_features(x).mean((1, 2))",
        "model.head.norm(model.forward_features(x).mean((1, 2)))",
        "model.head.in_conv(model.forward_features(x)).mean((2, 3))",
        "model.in_conv(model.forward_features(x)).mean((2, 3))",
        "model.forward_features(x)[-1].mean(-1)",
        _mean_of_patches(backbone),
        "model.forward_intermediates(x, 1, intermediates_only=True)[-1].mean((2, 3))",
    )


def _mean_of_patches(backbone: Backbone) -> str:
    return f"model.forward_features(x)[:, {backbone.num_prefix_tokens}:].mean(1)"


@torch.no_grad()
def _agrees(feature: str, model: nn.Module, images: Tensor, expected: Tensor) -> bool:
    """Whether the expression, one of the above, gives `expected`."""
    try:
        found = eval(feature, {"model": model, "x": images})
    except Exception:  # a model without such a part, or of another shape
        return False
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max())


def _vit_arguments(vit: VisionTransformer) -> dict[str, Any] | None:
    """What builds the ViT in timm, without its pooling."""
    name = _timm_name(vit)
    if name is None:
        return None
    arguments = {
        "model_name": name,
        "img_size": list(vit.image_size),
        "patch_size": vit.patch_size,
        "embed_dim": vit.width,
        "depth": vit.depth,
        "num_heads": vit.num_heads[0],
        "mlp_ratio": vit.mlp_ratio,
        "num_classes": vit.num_classes,
    }
    if carries_beit_names(vit):
        return arguments | {
            "init_values": vit.layer_scale or 0.0,
            "use_abs_pos_emb": vit.position != "none",
            "use_rel_pos_bias": vit.relative_position == "layer",
            "use_shared_rel_pos_bias": vit.relative_position == "shared",
        }
    if vit.position == "none":
        arguments |= {"pos_embed": "none"}
    if vit.layer_scale is not None:
        arguments |= {"init_values": vit.layer_scale}
    if vit.qkv_bias == "none":
        arguments |= {"qkv_bias": False}
    if vit.cls_token is None:
        arguments |= {"class_token": False}
    return arguments


def _vit_form(vit: VisionTransformer) -> TimmForm | None:
    arguments = _vit_arguments(vit)
    if arguments is None:
        return None
    if carries_beit_names(vit):
        from timm.models.beit import Beit

        if "use_fc_norm" not in inspect.signature(Beit).parameters:  # older versions
            return TimmForm(arguments | {"global_pool": "token"}, _mean_of_patches(vit))
        return TimmForm(arguments | {"global_pool": "avg", "use_fc_norm": False}, MODEL)
    own_tokens = vit.num_classes or vit.dist_token is not None
    if vit.cls_token is not None and own_tokens:  # which timm reads
        return TimmForm(arguments, _mean_of_patches(vit))
    arguments |= {"global_pool": "avg", "fc_norm": False}
    return TimmForm(arguments, _mean_of_patches(vit) if vit.num_classes else MODEL)


def _timm_name(vit: VisionTransformer) -> str | None:
    """The timm model whose arguments lead to `vit`."""
    parts = (vit.pre_norm, vit.activation, vit.norm_eps)
    plain, clip = (False, "gelu", LAYER_NORM_EPS), (True, "quick_gelu", CLIP_NORM_EPS)
    if vit.tubelet_size is not None or vit.qk_scale is not None:
        return None
    if carries_beit_names(vit):
        possible = parts == plain and vit.num_prefix_tokens == 1 and vit.qkv_bias == "no_key"
        return "beit_base_patch16_224" if possible else None
    if vit.dist_token is not None:
        possible = parts == plain and vit.position != "none"
        return "deit_tiny_distilled_patch16_224" if possible else None
    if parts == clip:
        return "vit_base_patch16_clip_quickgelu_224"
    return "vit_tiny_patch16_224" if parts == plain else None
