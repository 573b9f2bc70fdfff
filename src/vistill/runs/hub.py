"""Folders as hubs of models expect them: timm's and transformers' layouts, with a model card."""

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vistill.errors import UserError
from vistill.files import PARTIAL, sync_folder, write_atomic
from vistill.runs.model_card import model_card
from vistill.runs.reference import run_of

if TYPE_CHECKING:
    from vistill.evaluation.saved_classifier import Head
    from vistill.models.backbone import Backbone

HUB = ("config.json", "README.md")
"""What `write_timm_hub` adds."""
_MARK = "export.json"
_FULL = 224
"""Above this side the whole shorter side is seen, as in tests here."""


def write_timm_hub(
    backbone: "Backbone",
    arguments: dict[str, Any],
    feature: str | None,
    folder: Path,
    reference: Any,
    *,
    classes: list[str] | None = None,
    interpolation: Literal["bicubic", "bilinear"] = "bicubic",
) -> list[Path]:
    """Write timm's `config.json` and a card beside weights that are there; the files.

    Args:
        backbone: that was exported.
        arguments: of `timm.create_model`.
        feature: expression that gives the feature; None: of a classifier.
        folder: of the export.
        reference: of what was exported.
        classes: of a classifier.
        interpolation: how pictures are resized.
    """
    given = dict(arguments)
    count = given.get("num_classes", 0)
    cfg: dict[str, Any] = {
        "input_size": [3, *backbone.image_size],
        "interpolation": interpolation,
        "crop_pct": _crop(backbone),
        "mean": list(backbone.normalization.mean),
        "std": list(backbone.normalization.std),
        "num_classes": count,
    }
    if classes is not None:
        cfg["label_names"] = classes
    config = {
        "architecture": given.pop("model_name"),
        "num_classes": count,
        "num_features": backbone.width,
        "model_args": given,
        "pretrained_cfg": cfg,
    }
    usage = ["import timm", "", '# From a hub: "hf-hub:OWNER/NAME".']
    usage += [f'model = timm.create_model("local-dir:{folder.name}", pretrained=True).eval()']
    if feature not in (None, "model(x)"):
        usage += ["# x: normalised pictures", f"feature = {feature}"]
    card = model_card(backbone, "timm", "\n".join(usage), run_of(reference), classes)
    write_atomic(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_atomic(folder / "README.md", card)
    return [folder / "config.json", folder / "README.md"]


def write_transformers(
    backbone: "Backbone", head: "Head | None", folder: Path, reference: Any
) -> list[Path]:
    """Write a folder that `AutoModel.from_pretrained` loads, with an image processor and a card; of
    a model with a head one for `AutoModelForImageClassification`. The files.

    Raises:
        UserError: transformers has no architecture that computes the same.
    """
    from vistill.models.adapters.transformers_library import without_remarks
    from vistill.models.transformers_form import transformers_form

    classes = None if head is None else head.names
    if backbone.num_frames > 1:
        raise UserError(f"{backbone.origin} takes clips; --format videomae writes those")
    module: Any = transformers_form(backbone, None if head is None else head.state, classes)
    kind = "AutoModel" if head is None else "AutoModelForImageClassification"
    answer = "logits" if head is not None else "last_hidden_state"
    usage = [
        f"from transformers import AutoImageProcessor, {kind}",
        "",
        f'processor = AutoImageProcessor.from_pretrained("{folder.name}")',
        f'model = {kind}.from_pretrained("{folder.name}").eval()',
        f'found = model(**processor(picture, return_tensors="pt")).{answer}',
    ]
    if "add_pooling_layer" in type(module).__init__.__code__.co_varnames:
        usage.append("# pooler_output belongs to no training: its layer has random weights")
    height, width = backbone.image_size
    crop = _crop(backbone)
    processor = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": int(min(height, width) / crop)},
        "resample": 3 if head is None or head.interpolation == "bicubic" else 2,
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(backbone.normalization.mean),
        "image_std": list(backbone.normalization.std),
    }
    card = model_card(backbone, "transformers", "\n".join(usage), run_of(reference), classes)
    folder.mkdir(parents=True, exist_ok=True)
    mark = {"format": "vistill-transformers/1", "origin": backbone.origin}
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=folder) as made, without_remarks():
        module.save_pretrained(made)
        names = sorted(path.name for path in Path(made).iterdir())
        for name in names:
            os.replace(Path(made) / name, folder / name)
    write_atomic(folder / "preprocessor_config.json", json.dumps(processor, indent=2) + "\n")
    write_atomic(folder / "README.md", card)
    write_atomic(folder / _MARK, json.dumps(mark, indent=2) + "\n")
    sync_folder(folder)
    return [folder / name for name in (*names, "preprocessor_config.json", "README.md", _MARK)]


def _crop(backbone: "Backbone") -> float:
    """Share of the shorter side that tests see."""
    return 0.875 if max(backbone.image_size) <= _FULL else 1.0
