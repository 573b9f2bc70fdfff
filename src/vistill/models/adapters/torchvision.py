"""torchvision models as backbones, by the names that torchvision lists: its ViTs become our own,
all others are read by their last map."""

import re
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer as TorchvisionViT
from torchvision.models import get_model, get_model_weights, list_models

from vistill.errors import UserError, WrongSize
from vistill.image_size import ImageSize, height_width, plain_size
from vistill.models.adapters.admission import admit, in_one_sentence
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.adapters.torchvision_detectors import detector_names
from vistill.models.backbone import Backbone, Normalization
from vistill.models.taps import Own
from vistill.models.vit import VisionTransformer
from vistill.tokens.patches import require_whole_tokens

# A ViT's names to vistill's own.
_VIT = (
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_", "blocks."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
    (r"^heads\.head\.", "head."),
)


def torchvision_backbone(
    name: str,
    *,
    pretrained: bool,
    image_size: ImageSize | None,
    classifier: bool = False,
    num_classes: int | None = None,
) -> Backbone:
    """Build a torchvision classification model.

    Its classifier stays, so that exported weights load in torchvision with `strict=True`; nothing
    runs it unless it is asked for.

    Args:
        name: torchvision's model name.
        pretrained: load torchvision's default weights (may download).
        image_size: side of the inputs, or (height, width); None: that of the published weights.
        classifier: offer the `logits` tap.
        num_classes: of the classifier; None: torchvision's own.

    Raises:
        UserError: if torchvision does not know the name, cannot get the weights, or the model takes
            no pictures of such a size.
    """
    import torchvision.models

    names = list_models(module=torchvision.models)
    if name not in names:
        near = get_close_matches(name, [*names, *detector_names()], n=3, cutoff=0.3)
        raise UserError(f"torchvision has no model {name!r}; near: {', '.join(near)}")
    if name.startswith("vit_") and image_size is not None:
        try:
            require_whole_tokens(height_width(image_size), int(name.rpartition("_")[2]))
        except ValueError as error:
            raise WrongSize(f"torchvision/{name} cannot be read: {error}") from error
    classes = {} if num_classes is None else {"num_classes": num_classes}
    what = f"the weights of torchvision/{name} could not be loaded"
    with in_one_sentence(what if pretrained else f"torchvision/{name} cannot be built"):
        shown = get_model_weights(name)["DEFAULT"].transforms()
        # The size of a ViT is that of its table of positions.
        own = {"image_size": shown.crop_size[0]} if name.startswith("vit_") else {}
        module = get_model(name, weights="DEFAULT" if pretrained else None, **classes, **own)
    normalization = Normalization(tuple(shown.mean), tuple(shown.std))
    with in_one_sentence(f"torchvision/{name} cannot be read"):
        if isinstance(module, TorchvisionViT):
            plain = _as_plain_vit(module, normalization, classifier)
            if image_size is not None:
                plain.resize(image_size)
            backbone: Backbone = plain
        else:
            backbone = PooledBackbone(
                module,
                image_size=image_size or shown.crop_size[0],
                logits=classifier,
                normalization=normalization,
                build=torchvision_build(name, image_size, classifier, num_classes),
            )
            admit(backbone, partial(_run, module))
            if pretrained:
                backbone.pool_itself()
    backbone.origin = f"torchvision/{name}, {'published weights' if pretrained else 'random'}"
    backbone.untrained = not pretrained
    return backbone


def _run(module: Any, images: Tensor) -> Own:
    """A whole pass; its feature is what the first linear layer of its classifier is given."""
    given: list[Tensor] = []
    heads = (getattr(module, name, None) for name in ("classifier", "fc", "head"))
    layers = [part for head in heads if head is not None for part in head.modules()]
    linear = next((part for part in layers if isinstance(part, nn.Linear)), None)
    if linear is None:  # SqueezeNet's class scores are the mean of its last map
        return Own(None, module(images))
    handle = linear.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    try:
        module(images)
    finally:
        handle.remove()
    return Own(None, given[0])


def _as_plain_vit(module: Any, normalization: Normalization, classifier: bool) -> VisionTransformer:
    """Our own ViT with the weights of torchvision's.

    Raises:
        UserError: it does not compute the same, or has another classifier than a linear layer.
    """
    block: Any = module.encoder.layers[0]
    plain = VisionTransformer(
        image_size=module.image_size,
        patch_size=module.patch_size,
        embed_dim=module.hidden_dim,
        depth=len(module.encoder.layers),
        num_heads=block.num_heads,
        mlp_ratio=module.mlp_dim / module.hidden_dim,
        position="learned",
        norm_eps=block.ln_1.eps,
        num_classes=module.num_classes if classifier else 0,
        normalization=normalization,
    )
    state = {}
    for name, value in module.state_dict().items():
        for pattern, replacement in _VIT:
            name = re.sub(pattern, replacement, name)
        if classifier or not name.startswith("head"):
            state[name] = value
    plain.load_state_dict(state)
    image = torch.randn(1, 3, *plain.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        patches = module.eval()._process_input(image)
        theirs = module.encoder(torch.cat([module.class_token, patches], dim=1))
        if (plain.eval()(image) - theirs).abs().max() > 1e-4:
            raise UserError("vistill's own ViT does not compute what it does")
    return plain.train()


def torchvision_build(
    name: str, image_size: ImageSize | None, classifier: bool, num_classes: int | None
) -> dict[str, Any]:
    """What `vistill.models.build` needs to make such a model again."""
    size = None if image_size is None else plain_size(image_size)
    arguments: dict[str, Any] = {"name": name, "image_size": size}
    if classifier:
        arguments |= {"classifier": True, "num_classes": num_classes}
    return {"name": "torchvision", "args": arguments}
