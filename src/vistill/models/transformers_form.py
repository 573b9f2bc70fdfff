"""How a backbone is had in the transformers library: a model of its own that computes the same,
with a classifier where there is one."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.models.adapters.any_cnn import switched
from vistill.models.backbone import Backbone
from vistill.models.timm_form import exported_state, inner_module
from vistill.models.vit import VisionTransformer

_TOLERANCE = 1e-4
_VIT_PARTS = {
    "cls_token": "embeddings.cls_token",
    "dist_token": "embeddings.distillation_token",
    "mask_token": "embeddings.mask_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_DIALECTS: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "layers",
        {
            "norm1": "layernorm_before",
            "norm2": "layernorm_after",
            "attn": "attention",
            "proj": "o_proj",
            "q": "q_proj",
            "k": "k_proj",
            "v": "v_proj",
        },
    ),
    (
        "encoder.layer",
        {
            "attn": "attention",
            "proj": "o_proj",
            "q": "q_proj",
            "k": "k_proj",
            "v": "v_proj",
            "ls1": "layer_scale1",
            "ls2": "layer_scale2",
            "gamma": "lambda1",
        },
    ),
)
"""Where blocks are and how their parts are called: in ViT and DeiT, and in DINOv2."""


def transformers_form(
    backbone: Backbone, head: dict[str, Tensor] | None = None, classes: list[str] | None = None
) -> nn.Module:
    """The library's model with the weights of `backbone`, compared with it.

    Models of the library itself are given as they are. A plain ViT becomes a ViT, with a
    distillation token a DeiT, with layer scale a DINOv2; a ResNet of timm a ResNet.

    Args:
        backbone: of pictures.
        head: `head.*` of a classifier of the class token, or of the pooled map.
        classes: its names by output.

    Raises:
        UserError: the library has no architecture that computes the same.
    """
    module = inner_module(backbone)
    if backbone.build is not None and backbone.build["name"] == "transformers" and head is None:
        return module
    found = None
    if isinstance(backbone, VisionTransformer):
        found = _vit(backbone, head, classes)
    elif backbone.build is not None and backbone.build["name"] == "timm":
        found = _resnet(backbone, head, classes)
    if found is None or not _agrees(backbone, found, head):
        what = "classifier" if head is not None else "model"
        raise UserError(
            f"transformers has no {what} that computes what {backbone.origin} does; use --format "
            "timm, --format torch or --format onnx"
        )
    return found


def _named(classes: list[str]) -> dict[str, Any]:
    return {
        "num_labels": len(classes),
        "id2label": dict(enumerate(classes)),
        "label2id": {name: number for number, name in enumerate(classes)},
    }


# ---- plain ViTs


def _vit(
    vit: VisionTransformer, head: dict[str, Tensor] | None, classes: list[str] | None
) -> nn.Module | None:
    from transformers import (
        DeiTConfig,
        DeiTForImageClassification,
        DeiTModel,
        Dinov2Config,
        Dinov2Model,
        ViTConfig,
        ViTForImageClassification,
        ViTModel,
    )

    odd = (vit.pre_norm, vit.tubelet_size, vit.relative_position, vit.qk_scale)
    if any(part not in (None, False) for part in odd) or vit.cls_token is None:
        return None
    if vit.activation != "gelu" or vit.qkv_bias == "no_key" or (head and "fc_norm.weight" in head):
        return None
    distilled, scaled = vit.dist_token is not None, vit.layer_scale is not None
    if scaled and (distilled or head is not None or vit.mlp_ratio != int(vit.mlp_ratio)):
        return None  # DINOv2's classifiers see more than the class token
    if scaled and vit.image_size[0] != vit.image_size[1]:
        return None  # its table of positions is resampled as a square's
    arguments: dict[str, Any] = {
        "hidden_size": vit.width,
        "num_hidden_layers": vit.depth,
        "num_attention_heads": vit.num_heads[0],
        "intermediate_size": round(vit.width * vit.mlp_ratio),
        "hidden_act": "gelu",
        "layer_norm_eps": vit.norm_eps,
        "image_size": list(vit.image_size),
        "patch_size": vit.patch_size,
        "qkv_bias": vit.qkv_bias == "all",
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        **(_named(classes) if head is not None and classes is not None else {}),
    }
    kinds: Any = (ViTConfig, ViTModel, ViTForImageClassification)
    if distilled:
        kinds = (DeiTConfig, DeiTModel, DeiTForImageClassification)
    pooler = {"add_pooling_layer": False}
    if scaled:
        kinds, pooler = (Dinov2Config, Dinov2Model), {}
        del arguments["intermediate_size"]
        arguments["mlp_ratio"] = int(vit.mlp_ratio)
    config = kinds[0](**arguments)
    if head is None:
        module, prefix = kinds[1](config, **pooler), ""
    else:
        module, prefix = kinds[2](config), ("vit.", "deit.")[distilled]
    state = exported_state(vit)
    if vit.position == "none":
        state["pos_embed"] = torch.zeros(1, vit.num_prefix_tokens + vit.num_patches, vit.width)
    if scaled:  # of hidden patches, which nothing here shows
        state["mask_token"] = torch.zeros(1, vit.width)
    named = {prefix + name: value for name, value in _vit_names(state, *_DIALECTS[scaled])}
    if head is not None:
        named |= {f"classifier.{k.removeprefix('head.')}": v for k, v in head.items()}
    if named.keys() != module.state_dict().keys():
        return None
    module.load_state_dict(named, strict=True)
    return module.eval()


def _vit_names(
    state: dict[str, Tensor], blocks: str, parts: dict[str, str]
) -> Iterator[tuple[str, Tensor]]:
    """Weights under the names of the library."""
    for name, value in state.items():
        part, _, kind = name.rpartition(".")
        if name in _VIT_PARTS:
            yield _VIT_PARTS[name], value
        elif part in _VIT_PARTS:
            yield f"{_VIT_PARTS[part]}.{kind}", value
        elif part.startswith("blocks."):
            _, number, *inner = name.split(".")
            pieces = {".".join(inner): value}
            if "qkv" in inner:
                thirds = zip("qkv", value.chunk(3), strict=True)
                pieces = {f"attn.{one}.{kind}": weights.clone() for one, weights in thirds}
            for one, weights in pieces.items():
                theirs = ".".join(parts.get(word, word) for word in one.split("."))
                yield f"{blocks}.{number}.{theirs}", weights


# ---- ResNets


def _resnet(
    backbone: Backbone, head: dict[str, Tensor] | None, classes: list[str] | None
) -> nn.Module | None:
    """A ResNet with an ordinary stem."""
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet
    from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

    net: Any = inner_module(backbone)
    if not isinstance(net, ResNet):
        return None
    stages: list[Any] = [net.layer1, net.layer2, net.layer3, net.layer4]
    first = stages[0][0]
    if not isinstance(first, BasicBlock | Bottleneck) or not isinstance(net.conv1, nn.Conv2d):
        return None
    basic = isinstance(first, BasicBlock)
    config = ResNetConfig(
        embedding_size=net.conv1.out_channels,
        hidden_sizes=[stage[-1].bn2.num_features * (1 if basic else 4) for stage in stages],
        depths=[len(stage) for stage in stages],
        layer_type="basic" if basic else "bottleneck",
        hidden_act="relu",
        **(_named(classes) if head is not None and classes is not None else {}),
    )
    kind = ResNetModel if head is None else ResNetForImageClassification
    module, prefix = kind(config), "" if head is None else "resnet."
    own = module.state_dict()
    named = {prefix + name: value for name, value in _resnet_names(exported_state(backbone))}
    if head is not None:
        named |= {f"classifier.1.{k.removeprefix('head.')}": v for k, v in head.items()}
    if named.keys() != own.keys() or any(own[k].shape != v.shape for k, v in named.items()):
        return None
    module.load_state_dict(named, strict=True)
    return module.eval()


def _resnet_names(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    kinds = {"conv": "convolution", "bn": "normalization"}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] in ("conv1", "bn1"):
            yield f"embedder.embedder.{kinds[parts[0][:-1]]}.{parts[1]}", value
        elif parts[0].startswith("layer"):
            place = f"encoder.stages.{int(parts[0][5:]) - 1}.layers.{parts[1]}"
            if parts[2] == "downsample":
                kind = ("convolution", "normalization")[int(parts[3])]
                yield f"{place}.shortcut.{kind}.{parts[4]}", value
            else:
                layer, which = parts[2][:-1], int(parts[2][-1]) - 1
                yield f"{place}.layer.{which}.{kinds[layer]}.{parts[3]}", value


# ---- comparison


@torch.no_grad()
def _agrees(backbone: Backbone, module: nn.Module, head: dict[str, Tensor] | None) -> bool:
    """Whether both compute the same of two random pictures."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *backbone.image_size, generator=generator)
    with switched(backbone, training=False):
        if head is not None:
            feature = backbone.pooled(images, "cls" if backbone.has_class_token else "avg")
            expected = nn.functional.linear(feature, head["head.weight"], head.get("head.bias"))
            found = module(images).logits
        elif isinstance(backbone, VisionTransformer):
            expected, found = backbone(images), module(images).last_hidden_state
        else:
            expected, found = backbone.pooled(images), module(images).pooler_output.flatten(1)
    if found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= _TOLERANCE * expected.abs().max())
