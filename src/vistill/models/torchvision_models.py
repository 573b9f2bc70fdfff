"""torchvision models as backbones, by the names that torchvision lists."""

from difflib import get_close_matches
from typing import Any

from torchvision.models import get_model, list_models

from vistill.errors import UserError
from vistill.models.pooled import PooledBackbone


def torchvision_backbone(
    name: str,
    *,
    pretrained: bool,
    image_size: int | None,
    classifier: bool = False,
    num_classes: int | None = None,
) -> PooledBackbone:
    """Build a torchvision classification model that pools a last feature map.

    Its classifier stays, so that exported weights load in torchvision with `strict=True`; nothing
    runs it unless it is asked for.

    Args:
        name: torchvision's model name.
        pretrained: load torchvision's default weights (may download).
        image_size: side of the inputs; None: 224.
        classifier: offer the `logits` tap.
        num_classes: of the classifier; None: torchvision's own.

    Raises:
        UserError: if torchvision does not know the name, cannot get the weights, or the model does
            not pool a feature map.
    """
    import torchvision.models

    names = list_models(module=torchvision.models)
    if name not in names:
        near = get_close_matches(name, names, n=3, cutoff=0.3)
        raise UserError(f"torchvision has no model {name!r}; near: {', '.join(near)}")
    try:
        classes = {} if num_classes is None else {"num_classes": num_classes}
        module = get_model(name, weights="DEFAULT" if pretrained else None, **classes)
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"the weights of torchvision/{name} could not be loaded: {reason}"
        ) from error
    return PooledBackbone(
        module,
        image_size=image_size or 224,
        logits=classifier,
        origin=f"torchvision/{name}, {'published weights' if pretrained else 'random'}",
        build=torchvision_build(name, image_size, classifier, num_classes),
    )


def torchvision_build(
    name: str, image_size: int | None, classifier: bool, num_classes: int | None
) -> dict[str, Any]:
    """What `vistill.models.build` needs to make such a model again."""
    arguments = {"name": name, "image_size": image_size}
    if classifier:
        arguments |= {"classifier": True, "num_classes": num_classes}
    return {"name": "torchvision", "args": arguments}
