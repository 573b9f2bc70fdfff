"""A backbone as two files that outlive the training code: `model.safetensors` and `model.json`.

The JSON says how to build the model here and in timm, how to normalise its inputs, and where its
weights come from. ViTs carry timm's parameter names and load there with `strict=True`.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.files import write_atomic
from vistill.models.backbone import Backbone, Normalization
from vistill.models.beit import beit_names, own_names
from vistill.models.build import rebuild
from vistill.models.hooked import ModuleBackbone
from vistill.models.layers import CLIP_NORM_EPS, LAYER_NORM_EPS
from vistill.models.named_weights import load_named
from vistill.models.own_modules import given_back, object_facts
from vistill.models.pooled import PooledBackbone
from vistill.models.swin import SwinBackbone
from vistill.models.vit import VisionTransformer

FORMAT = "vistill-backbone/1"
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def timm_build(backbone: Backbone) -> dict[str, Any] | None:
    """`timm.create_model` arguments that build the same network, or None where timm has none."""
    if isinstance(backbone, SwinBackbone):
        return backbone.timm_build
    if not isinstance(backbone, VisionTransformer):
        build = backbone.build
        if build is None or build["name"] != "timm":
            return None
        classes = {} if build["args"].get("classifier") else {"num_classes": 0}
        return {"model_name": build["args"]["name"], **classes}
    name = _timm_name(backbone)
    if name is None:
        return None
    arguments = {
        "model_name": name,
        "img_size": list(backbone.image_size),
        "patch_size": backbone.patch_size,
        "embed_dim": backbone.width,
        "depth": backbone.depth,
        "num_heads": backbone.num_heads[0],
        "mlp_ratio": backbone.mlp_ratio,
        "num_classes": backbone.num_classes,
    }
    if carries_beit_names(backbone):
        return arguments | {
            "global_pool": "token",
            "init_values": backbone.layer_scale or 0.0,
            "use_abs_pos_emb": backbone.position != "none",
            "use_rel_pos_bias": backbone.relative_position == "layer",
            "use_shared_rel_pos_bias": backbone.relative_position == "shared",
        }
    if not backbone.num_prefix_tokens:
        arguments |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    if backbone.position == "none":
        arguments |= {"pos_embed": "none"}
    if backbone.layer_scale is not None:
        arguments |= {"init_values": backbone.layer_scale}
    if backbone.qkv_bias == "none":
        arguments |= {"qkv_bias": False}
    return arguments


def _timm_name(vit: VisionTransformer) -> str | None:
    """The timm model whose arguments lead to `vit`."""
    parts = (vit.pre_norm, vit.activation, vit.norm_eps)
    plain, clip = (False, "gelu", LAYER_NORM_EPS), (True, "quick_gelu", CLIP_NORM_EPS)
    if vit.tubelet_size is not None:
        return None
    if carries_beit_names(vit):
        possible = parts == plain and vit.num_prefix_tokens == 1 and vit.qkv_bias == "no_key"
        return "beit_base_patch16_224" if possible else None
    if vit.dist_token is not None:
        possible = parts == plain and vit.position != "none"
        return "deit_tiny_distilled_patch16_224" if possible else None
    if parts == clip:
        return "vit_base_patch16_clip_quickgelu_224"
    return "vit_tiny_patch16_224" if parts == plain else None


def carries_beit_names(backbone: Backbone) -> bool:
    """Whether the backbone is saved under BEiT's names: it has parts that no timm ViT has."""
    return isinstance(backbone, VisionTransformer) and (
        backbone.relative_position is not None or backbone.qkv_bias == "no_key"
    )


def inner_module(backbone: Backbone) -> nn.Module:
    """The module whose parameter names the outside world knows: behind an adapter, its model."""
    if isinstance(backbone, ModuleBackbone | PooledBackbone | SwinBackbone):
        return backbone.module
    return backbone


def exported_state(backbone: Backbone) -> dict[str, Tensor]:
    """The weights under the names that the outside world knows."""
    state = inner_module(backbone).state_dict()
    if isinstance(backbone, SwinBackbone):  # a shared bias network is written once per block
        return {name: value.clone() for name, value in state.items()}
    return beit_names(state) if carries_beit_names(backbone) else state


def save_backbone(backbone: Backbone, folder: Path, **facts: Any) -> None:
    """Write the backbone; each file appears whole or not at all.

    Of a module of the user's own, which only they can build, the weights have its own names.

    Args:
        backbone: what to save.
        folder: made if missing.
        facts: further JSON entries (step, epoch, metrics).
    """
    folder.mkdir(parents=True, exist_ok=True)
    state, kept = {}, set[int]()
    for name, value in exported_state(backbone).items():
        tensor = value.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        state[name] = tensor.clone() if place in kept else tensor  # tied weights are written twice
        kept.add(place)
    own = {} if backbone.build is not None else {"object": object_facts(backbone)}
    description = {
        "format": FORMAT,
        "build": backbone.build,
        **own,
        "timm": timm_build(backbone),
        "normalization": {
            "mean": list(backbone.normalization.mean),
            "std": list(backbone.normalization.std),
        },
        "image_size": list(backbone.image_size),
        "origin": backbone.origin,
        **facts,
    }
    write_atomic(folder / WEIGHTS, save(state, metadata={"format": "pt"}))
    write_atomic(folder / DESCRIPTION, json.dumps(description, indent=2) + "\n")


def is_export(folder: Path) -> bool:
    """Whether `save_backbone` wrote this folder."""
    try:
        return bool(json.loads((folder / DESCRIPTION).read_bytes())["format"] == FORMAT)
    except (OSError, ValueError, TypeError, KeyError):
        return False


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
        raise UserError(f"there is no run {folder}")
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
    weights = {
        k: v.to(module.state_dict()[k].dtype) if k in module.state_dict() else v
        for k, v in weights.items()
    }
    load_named(module, weights, f"{place}/model.safetensors")
    model.normalization = Normalization(
        tuple(description["normalization"]["mean"]), tuple(description["normalization"]["std"])
    )
    model.origin = f"run {folder}"
    return model
