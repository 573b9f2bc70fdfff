"""A backbone as two files that outlive the training code: `model.safetensors` and `model.json`.

The JSON says how to build the model here and in timm, how to normalise its inputs, and where its
weights come from. Plain ViTs carry timm's parameter names and load there with `strict=True`.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import nn

from vistill.errors import UserError
from vistill.files import write_atomic
from vistill.models.backbone import Backbone, Normalization
from vistill.models.build import rebuild
from vistill.models.checkpoints import load_named
from vistill.models.hooked import ModuleBackbone
from vistill.models.vit import VisionTransformer

FORMAT = "vistill-backbone/1"


def timm_build(backbone: Backbone) -> dict[str, Any] | None:
    """`timm.create_model` arguments that build the same network, or None where timm has none."""
    if not isinstance(backbone, VisionTransformer):
        build = backbone.build
        if build is None or build["name"] != "timm":
            return None
        return {"model_name": build["args"]["name"], "num_classes": 0}
    if backbone.tubelet_size is not None or backbone.relative_position_bias is not None:
        return None
    arguments = {
        "model_name": "vit_tiny_patch16_224",
        "img_size": list(backbone.image_size),
        "patch_size": backbone.patch_size,
        "embed_dim": backbone.width,
        "depth": backbone.depth,
        "num_heads": backbone.num_heads[0],
        "mlp_ratio": backbone.mlp_ratio,
        "num_classes": 0,
    }
    if not backbone.num_prefix_tokens:
        arguments |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    if backbone.position == "none":
        arguments |= {"pos_embed": "none"}
    if backbone.layer_scale is not None:
        arguments |= {"init_values": backbone.layer_scale}
    return arguments


def inner_module(backbone: Backbone) -> nn.Module:
    """The module whose parameter names the outside world knows: behind an adapter, its model."""
    return backbone.module if isinstance(backbone, ModuleBackbone) else backbone


def save_backbone(backbone: Backbone, folder: Path, **facts: Any) -> None:
    """Write the backbone; each file appears whole or not at all.

    Args:
        backbone: what to save.
        folder: made if missing.
        facts: further JSON entries (step, epoch, metrics).

    Raises:
        UserError: if vistill does not know how to build the model again.
    """
    if backbone.build is None:
        raise UserError(
            "a model given as an object without `build` cannot be exported: save its state_dict()"
        )
    folder.mkdir(parents=True, exist_ok=True)
    module = inner_module(backbone)
    state = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    description = {
        "format": FORMAT,
        "build": backbone.build,
        "timm": timm_build(backbone),
        "normalization": {
            "mean": list(backbone.normalization.mean),
            "std": list(backbone.normalization.std),
        },
        "image_size": list(backbone.image_size),
        "origin": backbone.origin,
        **facts,
    }
    write_atomic(folder / "model.safetensors", save(state, metadata={"format": "pt"}))
    write_atomic(folder / "model.json", json.dumps(description, indent=2) + "\n")


def find_export(folder: Path) -> Path:
    """The folder with `model.json`: `folder` itself, or the best (else last) export of a run.

    Raises:
        UserError: if there is none.
    """
    for candidate in (folder, folder / "export" / "best", folder / "export" / "last"):
        if (candidate / "model.json").is_file():
            return candidate
    if not folder.exists():
        raise UserError(f"there is no run {folder}")
    raise UserError(f"{folder} holds no exported backbone (model.json): has the run finished?")


def read_backbone(folder: Path) -> Backbone:
    """Load a backbone that `save_backbone` wrote, or the best one of a run.

    Raises:
        UserError: if there is none, or its files do not fit together.
    """
    place = find_export(folder)
    try:
        description = json.loads((place / "model.json").read_text())
        if description["format"] != FORMAT:
            raise UserError(f"{place}/model.json has the format {description['format']!r}")
        model = rebuild(description["build"])
        weights = load_file(place / "model.safetensors")
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot read the backbone in {place}: {error}") from error
    module = inner_module(model)
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
