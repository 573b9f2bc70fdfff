"""Detectors and segmenters of the transformers library as students: from a folder or as an object,
and back into the folder that `from_pretrained` reads.

That folder is written and read by the library alone, since `save_pretrained` writes many tensors
under other names than `state_dict` has (RT-DETR's `fc1`, DETR's `conv_encoder`).
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from vistill.image_size import ImageSize
from vistill.models.adapters.admission import admit, in_one_sentence
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.adapters.detectors import detector_backbone
from vistill.models.adapters.processors import PROCESSOR_FILES, Shown, shown_by, shown_by_processor
from vistill.models.adapters.transformers_library import (
    as_the_module_sees,
    load_module,
    num_channels,
    usual_processing,
    without_remarks,
)
from vistill.models.taps import Own

_SIDE = 224
_LIKE = {"d_fine": "rt_detr", "rt_detr_v2": "rt_detr"}
"""Families whose pictures the image processor of another prepares, as their papers' folders say."""
_ONE_FILE = "1000GB"


def detector_class(config: Any) -> Any:
    """The library's class of a detector or segmenter with a backbone; None: it is none.

    Args:
        config: of the library. The class that it was saved from goes before the usual one.
    """
    import transformers

    if getattr(config, "backbone_config", None) is None:
        return None
    kinds: list[Any] = []
    for task in ("OBJECT_DETECTION", "UNIVERSAL_SEGMENTATION", "INSTANCE_SEGMENTATION",
                 "SEMANTIC_SEGMENTATION"):  # fmt: skip
        mapping: Any = getattr(transformers, f"MODEL_FOR_{task}_MAPPING")
        found = mapping.get(type(config), None)
        kinds += found if isinstance(found, tuple) else [found] if found is not None else []
    written = config.architectures or ()
    usual = kinds[0] if kinds else None
    return next((kind for kind in kinds if kind.__name__ in written), usual)


def detector_of_folder(
    kind: Any, config: Any, source: str, name: str, image_size: ImageSize | None, *, load: bool
) -> PooledBackbone:
    """A detector of a folder, or of a name on the hub.

    Args:
        kind: what `detector_class` found.
        config: of the library.
        source: the folder, or the name.
        name: for messages.
        image_size: side of the backbone's inputs, or (height, width); None: 224.
        load: its weights, too.

    Raises:
        UserError: its weights do not fit, or its backbone is not found.
    """
    module = load_module(kind, config, source, name) if load else _fresh(kind, config, name)
    channels = num_channels(config.backbone_config, name)
    shown = shown_by_processor(source, name, channels) or usual_shown(config)
    return _adapt(module, shown, _processor_of(source), image_size)


def backbone_of_detector(
    module: Any, image_size: ImageSize | None, *, maps: Sequence[str] = ()
) -> PooledBackbone:
    """The same of an object.

    Raises:
        UserError: it is none, or its backbone is not found.
    """
    source = str(getattr(module.config, "_name_or_path", ""))
    local = bool(source) and Path(source).is_dir()
    shown = shown_by_processor(source, source) if local else None
    processor = _processor_of(source) if local else {}
    backbone = _adapt(module, shown or usual_shown(module.config), processor, image_size, maps)
    backbone.origin = f"a {type(module).__name__} given as an object"
    return backbone


def detector_from_config(
    config: dict[str, Any],
    detector: str,
    image_size: ImageSize | None,
    channels: Any = "rgb",
    processor: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> PooledBackbone:
    """What a backbone's `build` describes, with fresh weights, or those that `write_detector` left
    in `folder`."""
    import transformers

    settings = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(config)
    kind = getattr(transformers, detector)
    with without_remarks():
        if folder is None:
            module = _fresh(kind, settings, detector)
        else:
            module = load_module(kind, settings, str(folder), str(folder))
    shown = usual_shown(settings)._replace(channels=channels)
    backbone = _adapt(module, shown, processor or {}, image_size)
    backbone.origin, backbone.untrained = "random", True
    return backbone


def write_detector(backbone: PooledBackbone, folder: Path) -> None:
    """Write what `from_pretrained` reads, and the image processor's file as it came; each file
    appears whole or not at all."""
    assert backbone.build is not None
    module: Any = backbone.module
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as place, without_remarks():
        module.save_pretrained(place, max_shard_size=_ONE_FILE)
        for name, text in backbone.build["args"]["processor"].items():
            Path(place, name).write_text(text)
        for path in sorted(Path(place).iterdir()):
            os.replace(path, folder / path.name)


def is_detector(build: Mapping[str, Any] | None) -> bool:
    """Whether a backbone's `build` is of a detector of the library."""
    return build is not None and build["name"] == "hf" and "detector" in build["args"]


def usual_shown(config: Any) -> Shown:
    """What a family's image processor does to pictures, where there is no file of one."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    family = _LIKE.get(config.model_type, config.model_type)
    kinds: Any = IMAGE_PROCESSOR_MAPPING.get(CONFIG_MAPPING[family], None)
    if kinds is None:
        return usual_processing(config)
    kind = kinds["torchvision"] if isinstance(kinds, Mapping) else kinds[0]
    return shown_by(kind(), f"the {kind.__name__} of a {config.model_type}")


def _fresh(kind: Any, config: Any, name: str) -> Any:
    with in_one_sentence(f"hf/{name}, a {config.model_type}, cannot be built"):
        return kind(config)


def _processor_of(source: str) -> dict[str, str]:
    """The image processor's file of a folder, by its name."""
    paths = [Path(source, name) for name in PROCESSOR_FILES]
    return {path.name: path.read_text() for path in paths if path.is_file()}


def _adapt(
    module: Any,
    shown: Shown,
    processor: Mapping[str, str],
    image_size: ImageSize | None,
    maps: Sequence[str] = (),
) -> PooledBackbone:
    config = module.config
    arguments = {
        "config": json.loads(config.to_json_string(use_diff=False)),
        "detector": type(module).__name__,
        "channels": shown.channels,
        "processor": dict(processor),
    }
    backbone = detector_backbone(
        module,
        image_size or _SIDE,
        maps=maps,
        normalization=shown.normalization,
        build={"name": "hf", "args": arguments},
    )
    if shown.channels == "bgr":
        backbone.runs.register_forward_pre_hook(partial(as_the_module_sees, False, True))
    with in_one_sentence(f"the backbone of a {type(module).__name__} cannot be read"):
        admit(backbone, partial(_run, backbone.runs))
    arguments["image_size"] = list(backbone.image_size)
    return backbone


def _run(module: Any, images: Tensor) -> Own:
    module(images)
    return Own(None, None)
