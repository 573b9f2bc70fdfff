"""Models and names of the golden cases of AMD and VideoMAE."""

import torch
from names import part
from torch import Tensor

from vistill.models.files.beit import own_names
from vistill.models.vit import VisionTransformer


def clip_vit(image_size: int, patch_size: int, frames: int, **sizes) -> VisionTransformer:
    return VisionTransformer(
        image_size=image_size,
        patch_size=patch_size,
        tubelet_size=2,
        num_frames=frames,
        class_token=False,
        qkv_bias="no_key",
        **sizes,
    )


def load(model: torch.nn.Module, state: dict[str, Tensor], absent=()) -> None:
    """Published names and values; nothing may be left over, and only `absent` may be missing."""
    found = model.load_state_dict(own_names(state), strict=False)
    assert not found.unexpected_keys
    assert {name for name in found.missing_keys if not name.endswith("pos_embed")} <= set(absent)


def training_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published names of a pre-training model to those of `AMD` and `VideoMAE`."""
    renamed = {
        **{f"student.{k}": v for k, v in part(state, "encoder").items()},
        **{f"painter.decoder.{k}": v for k, v in part(state, "decoder").items()},
        **{f"generators.{k}": v for k, v in part(state, "generators").items()},
        "painter.decoder.mask_token": state.get("mask_token"),
        "painter.decoder.embed.weight": state.get("encoder_to_decoder.weight"),
    }
    return {
        k.replace("student.projection_heads.", "projections.").replace(
            "decoder.head.", "decoder.pred."
        ): v
        for k, v in renamed.items()
        if v is not None and not (k.startswith("generators.") and ".norm." in k)
    }


def unit(video: Tensor) -> Tensor:
    """Normalised pixels back in [0, 1]."""
    mean = torch.tensor([0.485, 0.456, 0.406]).to(video)[:, None, None, None]
    std = torch.tensor([0.229, 0.224, 0.225]).to(video)[:, None, None, None]
    return video * std + mean
