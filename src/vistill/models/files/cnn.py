"""Weights of ResNets and MobileNetV2 in files: torchvision's names, and those of the published KDEP
checkpoints and of their converted forms (spec kdep 12)."""

import re

import torch
from torch import Tensor
from torchvision.models import get_model

from vistill.errors import UserError
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.adapters.torchvision import torchvision_build
from vistill.models.files.named_weights import load_named

_ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenet_v2")
# What only pre-training needs: normalisers, and the projector of the 1x1 convolution.
_ASIDE = re.compile(r"(module\.)?(attacker|normalizer|normalize|emb|l2norm)\.|feat_scale$")
_CLASSIFIERS = ("fc.", "classifier.")
_OF_DETECTRON = (
    (r"^stem\.", ""),
    (r"conv(\d)\.norm\.", r"bn\1."),
    (r"shortcut\.norm\.", "downsample.1."),
    (r"shortcut\.", "downsample.0."),
)
_EXPANDED = ("0.0", "0.1", "", "1.0", "1.1", "", "2", "3")
_NOT_EXPANDED = ("0.0", "0.1", "", "1", "2")


def plain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's own tensors under torchvision's names.

    Projectors and normalisers of pre-training are left aside; MobileNetV2 of the KDEP code and
    detectron2's ResNets are renamed.
    """
    plain = {name: tensor for name, tensor in state.items() if not _ASIDE.match(name)}
    if "stem.conv1.weight" in plain:
        return {_from_detectron(name): tensor for name, tensor in plain.items()}
    if "conv.0.weight" in plain:
        return {_from_mobilenet(name): tensor for name, tensor in plain.items()}
    return plain


def _from_detectron(name: str) -> str:
    for pattern, replacement in _OF_DETECTRON:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"^res(\d)\.", lambda stage: f"layer{int(stage[1]) - 1}.", name)


def _from_mobilenet(name: str) -> str:
    name = re.sub(r"^conv\.(\d)", r"features.18.\1", name)
    name = re.sub(r"^classifier\.(weight|bias)", r"classifier.1.\1", name)
    block = re.match(r"features\.(\d+)\.conv\.(\d)\.(.*)", name)
    if block is None:
        return name
    places = _NOT_EXPANDED if block[1] == "1" else _EXPANDED
    return f"features.{block[1]}.conv.{places[int(block[2])]}.{block[3]}"


def is_cnn(state: dict[str, Tensor]) -> bool:
    """Whether these are weights of a ResNet or of MobileNetV2."""
    return not {"layer4.0.conv1.weight", "features.18.0.weight"}.isdisjoint(plain_names(state))


def cnn_from_state(
    state: dict[str, Tensor],
    source: str,
    *,
    classifier: bool = False,
    image_size: tuple[int, int] | None = None,
) -> PooledBackbone:
    """The torchvision model that the weights fit; a classifier of not 1000 classes is left aside.

    Args:
        state: weights under torchvision's names, or those of the KDEP checkpoints.
        source: where they come from, for messages.
        classifier: keep the classifier, of any number of classes, for the `logits` tap.
        image_size: height and width it is used at, which no tensor depends on; None: 224.

    Raises:
        UserError: they fit none, or hold no classifier.
    """
    plain = plain_names(state)
    shapes = _body({name: tensor.shape for name, tensor in plain.items()})
    for name in _ARCHITECTURES:
        with torch.device("meta"):
            expected = get_model(name).state_dict()
        if _body({key: value.shape for key, value in expected.items()}) == shapes:
            break
    else:
        raise UserError(f"{source} holds a CNN that is none of {', '.join(_ARCHITECTURES)}")
    classes = None
    if classifier:
        last = plain.get(next(k for k in reversed(expected) if k.endswith("weight")))
        if last is None:
            raise UserError(f"{source} holds no classifier")
        classes = last.shape[0]
    module = get_model(name, **({"num_classes": classes} if classifier else {}))
    expected = module.state_dict()
    heads = [key for key in expected if key.startswith(_CLASSIFIERS)]
    fitting = {
        key: tensor
        for key, tensor in plain.items()
        if key not in heads or tensor.shape == expected[key].shape
    }
    counters = [key for key in expected if key.endswith("num_batches_tracked")]
    load_named(module, fitting, source, optional=[*([] if classifier else heads), *counters])
    build = torchvision_build(name, None, classifier, classes)
    return PooledBackbone(module, image_size=image_size or 224, logits=classifier, build=build)


def _body(shapes: dict[str, torch.Size]) -> dict[str, torch.Size]:
    return {
        name: shape
        for name, shape in shapes.items()
        if not name.startswith(_CLASSIFIERS) and not name.endswith("num_batches_tracked")
    }
