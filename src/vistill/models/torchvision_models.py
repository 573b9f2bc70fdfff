"""torchvision models as backbones, by the names that torchvision lists."""

from difflib import get_close_matches

from torchvision.models import get_model, list_models

from vistill.errors import UserError
from vistill.models.pooled import PooledBackbone


def torchvision_backbone(name: str, *, pretrained: bool, image_size: int | None) -> PooledBackbone:
    """Build a torchvision classification model that pools a last feature map.

    Its classifier stays, so that exported weights load in torchvision with `strict=True`; nothing
    runs it.

    Args:
        name: torchvision's model name.
        pretrained: load torchvision's default weights (may download).
        image_size: side of the inputs; None: 224.

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
        module = get_model(name, weights="DEFAULT" if pretrained else None)
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"the weights of torchvision/{name} could not be loaded: {reason}"
        ) from error
    return PooledBackbone(
        module,
        image_size=image_size or 224,
        origin=f"torchvision/{name}, {'published weights' if pretrained else 'random'}",
        build={"name": "torchvision", "args": {"name": name, "image_size": image_size}},
    )
