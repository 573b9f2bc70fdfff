"""torchvision's detectors and segmenters by name, whole, as students whose backbone is trained."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model, list_models
from torchvision.ops.misc import FrozenBatchNorm2d

from vistill.errors import UserError
from vistill.image_size import ImageSize, plain_size
from vistill.models.adapters.admission import in_one_sentence
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.adapters.detectors import detector_backbone
from vistill.models.files.named_weights import load_named
from vistill.models.files.weight_files import prefixes_of, read_weights

_SIDE = 224
_COUNTER = "num_batches_tracked"


def detector_names() -> list[str]:
    """What torchvision lists under detection and segmentation."""
    import torchvision.models

    rooms = torchvision.models.detection, torchvision.models.segmentation
    return [name for room in rooms for name in list_models(module=room)]


def torchvision_detector(
    name: str,
    *,
    pretrained: bool,
    image_size: ImageSize | None,
    options: Mapping[str, Any] | None = None,
) -> PooledBackbone:
    """Build a detector or segmenter; its backbone is what is trained, all stages of it.

    Args:
        name: torchvision's model name.
        pretrained: load torchvision's default weights (may download).
        image_size: side of the backbone's inputs, or (height, width); None: 224.
        options: `num_classes`, `aux_loss` and `frozen` batch norms of the backbone.

    Raises:
        UserError: torchvision cannot build it, or get the weights.
    """
    wanted = dict(options or {})
    frozen = bool(wanted.pop("frozen", False))
    what = f"the weights of torchvision/{name} could not be loaded"
    with in_one_sentence(what if pretrained else f"torchvision/{name} cannot be built"):
        weights: dict[str, Any] = (
            {"weights": "DEFAULT"} if pretrained else {"weights": None, "weights_backbone": None}
        )
        module = get_model(name, **weights, **wanted)
    if frozen:
        _freeze_norms(module.get_submodule("backbone"))
    if pretrained:
        for parameter in module.backbone.parameters():
            parameter.requires_grad_(True)
    backbone = detector_backbone(module, image_size or _SIDE)
    frozen = any(isinstance(part, FrozenBatchNorm2d) for part in module.modules())
    if getattr(module, "aux_classifier", None) is not None:
        wanted["aux_loss"] = True
    kept = wanted | ({"frozen": True} if frozen else {})
    size = None if image_size is None else plain_size(image_size)
    arguments = {"name": name, "image_size": size, "options": kept}
    backbone.build = {"name": "torchvision", "args": arguments}
    backbone.origin = f"torchvision/{name}, {'published weights' if pretrained else 'random'}"
    backbone.untrained = not pretrained
    return backbone


def detector_of_file(
    name: str, path: str, *, image_size: ImageSize | None, branch: str | None = None
) -> PooledBackbone:
    """A detector with the weights of a file, strictly, heads of any number of classes included.

    Where the file counts no batches its batch norms were frozen ones, and stay so.

    Args:
        name: torchvision's model name.
        path: of the state dict, or of a checkpoint that holds one.
        image_size: side of the backbone's inputs, or (height, width); None: 224.
        branch: which network of the file, where it holds several.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    with torch.device("meta"):
        usual = get_model(name, weights=None, weights_backbone=None).state_dict()
    weights = read_weights(Path(path), branch, lambda state: prefixes_of(usual, state))
    state = weights.state
    options: dict[str, Any] = {}
    if any(key.startswith("aux_classifier.") for key in state):
        options["aux_loss"] = True
    counted = any(key.startswith("backbone.") and key.endswith(_COUNTER) for key in state)
    if not counted and any(key.endswith("running_var") for key in state):
        options["frozen"] = True
    if (classes := _num_classes(name, usual, state)) is not None:
        options["num_classes"] = classes
    backbone = torchvision_detector(name, pretrained=False, image_size=image_size, options=options)
    own = backbone.module.state_dict()
    counters = [key for key in own if key.endswith(_COUNTER)]
    load_named(backbone.module, {k: v for k, v in state.items() if k in own or not (
        "frozen" in options and k.endswith(_COUNTER))}, path, counters)  # fmt: skip
    backbone.origin = f"file {path}" + (f", {weights.taken}" if weights.taken else "")
    backbone.untrained = False
    return backbone


def _num_classes(name: str, usual: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> int | None:
    """How many classes the heads of a file tell apart, where they are not torchvision's; from the
    sizes of biases that grow with that number."""
    with torch.device("meta"):
        few = [
            get_model(name, weights=None, weights_backbone=None, num_classes=n).state_dict()
            for n in (2, 3)
        ]
    for key, bias in few[0].items():
        step = few[1][key].shape[0] - bias.shape[0] if bias.dim() == 1 else 0
        if step and key in state and state[key].dim() == 1:
            found, rest = divmod(state[key].shape[0] - bias.shape[0], step)
            return None if rest or state[key].shape == usual[key].shape else found + 2
    return None


def _freeze_norms(module: nn.Module) -> None:
    """Put frozen batch norms in the place of those that learn."""
    for name, part in list(module.named_modules()):
        if type(part) is nn.BatchNorm2d:
            above, _, own = name.rpartition(".")
            frozen = FrozenBatchNorm2d(part.num_features, eps=part.eps)
            setattr(module.get_submodule(above), own, frozen)


def detector_options(spec: str, option: str) -> dict[str, Any]:
    """`num_classes=N` behind the name of a detector.

    Raises:
        UserError: it says something else.
    """
    found = re.fullmatch(r"num_classes=([1-9]\d{0,5})", option)
    if option and found is None:
        raise UserError(f"{spec}: {option!r} is not the option num_classes=NUMBER")
    return {} if found is None else {"num_classes": int(found[1])}
