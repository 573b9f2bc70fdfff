"""A teacher and a student of pictures or clips of 16 pixels, for runs with a cache."""

from typing import Any

import torch

from vistill.models.vit import VisionTransformer


def tiny_vit(width: int, seed: int, frames: int | None, tubelet: int) -> VisionTransformer:
    """A ViT of two blocks; without frames of pictures."""
    torch.manual_seed(seed)
    of_clips = {"num_frames": frames, "tubelet_size": tubelet} if frames else {}
    return VisionTransformer(
        image_size=16, patch_size=4, embed_dim=width, depth=2, num_heads=2, **of_clips
    )


def sides(settings: dict[str, Any]) -> dict[str, Any]:
    """Both, as the settings of a run ask for: UMT's teacher sees pictures, its student frames."""
    frames, umt = settings.get("data.frames"), settings["method"] == "umt"
    tubelet = 1 if umt else 2
    return {
        "teacher": tiny_vit(16, 1, None if umt else frames, tubelet),
        "teacher_weights": "random",
        "student": tiny_vit(8, 5, frames, tubelet),
    }
