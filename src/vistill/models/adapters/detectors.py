"""Detectors and segmenters as students: their backbone is found and shown pictures, nothing else of
them runs, and what is trained leaves with the whole of them, under their package's names."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from vistill.errors import UserError, WrongSize, first_line
from vistill.image_size import ImageSize, height_width, shown_size
from vistill.models.adapters.any_cnn import PooledBackbone, switched
from vistill.models.adapters.sites import returned_maps
from vistill.models.backbone import Backbone, Normalization, require_backbone

_ROOTS = ("backbone", "conv_encoder", "pixel_level_module.encoder")
"""How libraries call what makes a detector's maps, or what that is wrapped in."""
_INNER = ("body", "backbone", "conv_encoder", "model", "features")
"""How they call it inside a wrapper that adds a neck, masks or positions."""


def detector_backbone(
    module: nn.Module,
    image_size: ImageSize,
    *,
    maps: Sequence[str] = (),
    normalization: Normalization | None = None,
    **named: Any,
) -> PooledBackbone:
    """The backbone of a detector or segmenter, of torchvision, transformers or the user's own.

    It is what is called `backbone` (in transformers also `conv_encoder` or the encoder of
    `pixel_level_module`), without the neck that may be in it; of torchvision's SSD on VGG, the VGG
    up to `conv7`. Where there is none, the maps have to be named, and the module itself is run.

    Args:
        module: the whole of it.
        image_size: height and width that the backbone is used at.
        maps: see `PooledBackbone`.
        normalization: of its pictures; None: what its own transform does, or as ImageNet.
        named: further arguments of `PooledBackbone`.

    Raises:
        UserError: no backbone is found, or a map.
    """
    name, size = type(module).__name__, height_width(image_size)
    part, layer = _vgg(module) or (None, None)
    if part is None:
        part, why = find_backbone(module, size)
        if why and not maps:
            raise WrongSize(
                f"the backbone of {name} cannot take pictures of {shown_size(size)} pixels: {why}"
            )
    if part is None and not maps:
        raise UserError(
            f"no backbone is found in {name}: no part called backbone gives feature maps; name the "
            f"parts that give its maps, such as student.maps=[{_last_parts(module)}]"
        )
    return PooledBackbone(
        module,
        image_size=image_size,
        part=part,
        maps=maps,
        layer=layer,
        normalization=normalization or own_normalization(module),
        **named,
    )


def find_backbone(module: nn.Module, size: tuple[int, int]) -> tuple[str | None, str]:
    """Dotted name of the innermost part that is called as backbones are and makes maps of pictures;
    None: there is none, and what the innermost has raised, if it is there and fails."""
    names = [name for name, _ in module.named_modules() if _is_root(name)]
    why = ""
    with switched(module, training=False), torch.no_grad():
        for root in names:
            tried = {name: _gives_maps(module, name, size) for name in _inwards(module, root)}
            found = [name for name, result in tried.items() if result is True]
            if found:
                return found[-1], ""
            why = next((told for told in reversed(tried.values()) if isinstance(told, str)), why)
    return None, why


def _is_root(name: str) -> bool:
    return any(name == root or name.endswith(f".{root}") for root in _ROOTS)


def _inwards(module: nn.Module, root: str) -> Iterator[str]:
    """The name of a wrapper, of what it wraps, and so on."""
    yield root
    part = module.get_submodule(root)
    inner = next((name for name in _INNER if name in dict(part.named_children())), None)
    if inner is not None:
        yield from _inwards(module, f"{root}.{inner}")


def _gives_maps(module: nn.Module, name: str, size: tuple[int, int]) -> bool | str:
    """Whether a part makes maps of pictures; what it raises, where it does."""
    part = module.get_submodule(name)
    like = next(part.parameters(), torch.empty(0))
    try:
        output = part(torch.rand(1, 3, *size).to(like))
    except Exception as error:  # a wrapper that wants masks, say
        return first_line(error)
    return any(found.shape[1] > 1 for found in returned_maps(output).values())


def _vgg(module: nn.Module) -> tuple[str, str] | None:
    """Where torchvision's SSD keeps the last layers of its VGG: with the first of its own."""
    backbone: Any = getattr(module, "backbone", None)
    if type(backbone).__name__ != "SSDFeatureExtractorVGG":
        return None
    return "backbone", "extra.0"


def own_normalization(module: nn.Module) -> Normalization | None:
    """What the transform of a torchvision detector does to pixels in [0, 1]; None: no such."""
    transform: Any = getattr(module, "transform", None)
    mean, std = (getattr(transform, name, None) for name in ("image_mean", "image_std"))
    if mean is None or std is None or not len(mean) == len(std) == 3:
        return None
    return Normalization((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def _last_parts(module: nn.Module) -> str:
    """Some names to show what is meant."""
    names = [name for name, _ in module.named_modules() if name.count(".") == 1][:3]
    return ",".join(names or [name for name, _ in module.named_children()][:3] or ["layer3"])


def with_maps(model: Backbone, maps: Sequence[str]) -> Backbone:
    """`model`, whose further maps are named, if any are.

    Raises:
        UserError: it has none of such a name, or none at all.
    """
    if maps and not isinstance(model, PooledBackbone):
        raise UserError(
            f"student.maps names feature maps, and what {model.origin} makes are tokens of "
            f"{model.depth} blocks; leave it out"
        )
    if maps and isinstance(model, PooledBackbone):
        model.name_maps(maps)
    return model


def own_backbone(model: Any, image_size: ImageSize = 224, maps: Sequence[str] = ()) -> Backbone:
    """What was given as an object: a backbone as it is, a detector or a module whose maps are named
    by its backbone.

    Raises:
        UserError: it is neither; told is how it becomes one.
    """
    if isinstance(model, Backbone):
        return with_maps(model, maps)
    if not isinstance(model, nn.Module):
        return require_backbone(model)
    transformers = sys.modules.get("transformers")  # of which an object comes with its import
    if transformers is not None and isinstance(model, transformers.PreTrainedModel):
        from vistill.models.adapters.transformers_detectors import backbone_of_detector

        return backbone_of_detector(model, image_size, maps=maps)
    try:
        return detector_backbone(model, image_size, maps=maps)
    except UserError as error:
        if maps:
            raise
        try:
            return require_backbone(model)
        except UserError as other:
            raise UserError(f"{other}; {first_line(error)}") from None
