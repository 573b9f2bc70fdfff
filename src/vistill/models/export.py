"""A backbone as two files that outlive the training code: `model.safetensors` and `model.json`.

The JSON says how to build the model here and in timm, where timm has the feature that was measured,
how to normalise inputs, and where the weights come from. What timm can build loads there with
`strict=True`.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from safetensors.torch import load_file, save
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.files import near_path, write_atomic
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.adapters.own_modules import given_back, object_facts
from vistill.models.adapters.transformers_detectors import (
    detector_from_config,
    is_detector,
    write_detector,
)
from vistill.models.backbone import Backbone, Normalization
from vistill.models.build import rebuild
from vistill.models.files.beit import own_names
from vistill.models.files.named_weights import load_named
from vistill.models.timm_form import (
    TimmClassifier,
    carries_beit_names,
    exported_state,
    inner_module,
    timm_form,
)

FORMAT = "vistill-backbone/1"
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def save_backbone(backbone: Backbone, folder: Path, **facts: Any) -> None:
    """Write the backbone; each file appears whole or not at all.

    Of a module of the user's own, which only they can build, the weights have its own names; of a
    detector of transformers the folder is what `from_pretrained` reads.

    Args:
        backbone: what to save.
        folder: made if missing.
        facts: further JSON entries (step, epoch, metrics).
    """
    folder.mkdir(parents=True, exist_ok=True)
    form = timm_form(backbone)
    own = {} if backbone.build is not None else {"object": object_facts(backbone)}
    description = {
        "format": FORMAT,
        "build": backbone.build,
        **own,
        "timm": None if form is None else form.arguments,
        "feature": None if form is None else form.feature,
        "timm_version": version("timm"),
        "normalization": {
            "mean": list(backbone.normalization.mean),
            "std": list(backbone.normalization.std),
        },
        "image_size": list(backbone.image_size),
        "origin": backbone.origin,
        "untrained": backbone.untrained,
        **({"pools_itself": True} if backbone.pools_itself else {}),
        **facts,
    }
    if is_detector(backbone.build):
        write_detector(cast(PooledBackbone, backbone), folder)
    else:
        write_atomic(folder / WEIGHTS, save(_state(backbone), metadata={"format": "pt"}))
    write_atomic(folder / DESCRIPTION, json.dumps(description, indent=2) + "\n")


def _state(backbone: Backbone) -> dict[str, Tensor]:
    """The exported weights on the host, each in memory of its own."""
    state, kept = {}, set[int]()
    for name, value in exported_state(backbone).items():
        tensor = value.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        state[name] = tensor.clone() if place in kept else tensor  # tied weights are written twice
        kept.add(place)
    return state


def is_export(folder: Path) -> bool:
    """Whether `save_backbone` wrote this folder."""
    try:
        return bool(json.loads((folder / DESCRIPTION).read_bytes())["format"] == FORMAT)
    except (OSError, ValueError, TypeError, KeyError):
        return False


def save_timm_classifier(
    backbone: Backbone, form: TimmClassifier, folder: Path, head: dict[str, Any], **facts: Any
) -> None:
    """Write a classifier as timm builds it: one file of weights, head included.

    Args:
        backbone: in front of the head.
        form: the whole in timm.
        folder: made if missing.
        head: what else vistill has to know about it.
        facts: further JSON entries.
    """
    folder.mkdir(parents=True, exist_ok=True)
    description = {
        "format": FORMAT,
        "build": backbone.build,
        "timm": form.arguments,
        "timm_version": version("timm"),
        "normalization": {
            "mean": list(backbone.normalization.mean),
            "std": list(backbone.normalization.std),
        },
        "image_size": list(backbone.image_size),
        "origin": backbone.origin,
        "untrained": backbone.untrained,
        "head": {**head, "names": form.names},
        **facts,
    }
    state = {k: v.detach().cpu().contiguous() for k, v in form.state.items()}
    write_atomic(folder / WEIGHTS, save(state, metadata={"format": "pt"}))
    write_atomic(folder / DESCRIPTION, json.dumps(description, indent=2) + "\n")


def without_head(weights: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """The backbone's weights of what `save_timm_classifier` wrote, under its own names."""
    ours = {theirs: own for own, theirs in names.items()}
    parts = {own: weights[theirs] for theirs, own in ours.items()}
    rest = {k: v for k, v in weights.items() if k not in ours}
    return rest | {k: v for k, v in parts.items() if not k.startswith(("head.", "fc_norm."))}


def find_export(folder: Path) -> Path:
    """The folder with `model.json`: `folder` itself, or the best (else last) export of a run.

    `RUN/NAME` is one of several students that learned together in `RUN`.

    Raises:
        UserError: if there is none, or several and no name.
    """
    exports = (folder / "export", folder.parent / "export" / folder.name)
    for candidate in (folder, *(place / which for place in exports for which in ("best", "last"))):
        if (candidate / "model.json").is_file():
            return candidate
    names = sorted(place.parent.parent.name for place in exports[0].glob("*/last/model.json"))
    if names:
        which = " or ".join(f"run:{folder}/{name}" for name in names)
        raise UserError(f"{folder} holds {len(names)} students; write {which}")
    students = sorted(p.parent.parent.name for p in exports[1].parent.glob("*/last/model.json"))
    if students and not folder.exists():
        raise UserError(
            f"{folder.parent} has the students {', '.join(students)}, not {folder.name}"
        )
    if not folder.exists():
        raise UserError(f"there is no run {folder}{near_path(folder)}")
    raise UserError(f"{folder} holds no exported backbone (model.json): has the run finished?")


def read_backbone(folder: Path, into: nn.Module | str | None = None) -> Backbone:
    """Load a backbone that `save_backbone` wrote, or the best one of a run.

    Args:
        folder: of the export, or of the run.
        into: a module of the user's own that the weights belong to, bare or wrapped, or the
            function that makes it.

    Raises:
        UserError: if there is none, its files do not fit together, or the module is missing.
    """
    place = find_export(folder)
    try:
        description = json.loads((place / "model.json").read_text())
        if description["format"] != FORMAT:
            raise UserError(f"{place}/model.json has the format {description['format']!r}")
        facts = description.get("object")
        if is_detector(description["build"]) and into is None:
            model: Backbone = detector_from_config(**description["build"]["args"], folder=place)
            return _as_described(model, description, folder)
        if facts is None and into is None:
            model = rebuild(description["build"])
        else:
            model = given_back(into, facts or {}, place)
        weights = load_file(place / "model.safetensors")
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot read the backbone in {place}: {error}") from error
    module = inner_module(model)
    if carries_beit_names(model):
        weights = own_names(weights)
    own = module.state_dict()
    head = description.get("head")
    optional: list[str] = []
    if head is not None:  # a classifier as timm has it
        weights = without_head(weights, head["names"])
        optional = [name for name in own if name.startswith(("norm.", "fc_norm."))]
    weights = {k: v.to(own[k].dtype) if k in own else v for k, v in weights.items()}
    load_named(module, weights, f"{place}/model.safetensors", optional)
    return _as_described(model, description, folder)


def _as_described(model: Backbone, description: dict[str, Any], folder: Path) -> Backbone:
    """`model` with the size, the normalisation and the origin of its export."""
    size, resize = tuple(description["image_size"]), getattr(model, "resize", None)
    if size != model.image_size and resize is not None:
        resize(size)
    model.normalization = Normalization(
        tuple(description["normalization"]["mean"]), tuple(description["normalization"]["std"])
    )
    if description.get("pools_itself", False):
        model.pool_itself()
    model.origin = f"run {folder}"
    model.untrained = bool(description.get("untrained", False))  # older exports do not say
    return model
