"""The last map of a model, transformer or CNN: where it is read, which part of it is compared, and
how it comes to another grid (feature distillation; spec fd 2, 3)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vistill.config.methods import FeatureDistillationConfig
from vistill.errors import UserError
from vistill.methods.side import Side
from vistill.models.backbone import Backbone, Tap
from vistill.models.taps import Shape


def output_tap(side: Side, after_norm: bool) -> Tap:
    """The last feature map of a model, after its own final norm or in front of it.

    Raises:
        UserError: the model does not offer that signal.
    """
    if "map" in side.model.taps:
        return side.tap("map_act" if after_norm else "map")
    return side.tap("norm" if after_norm else "block")


def as_tokens(features: Tensor) -> Float[Tensor, "b n d"]:
    """Tokens as they are, and a feature map `[B, D, H, W]` row by row."""
    return features.flatten(2).mT if features.dim() == 4 else features


def select(
    tokens: Float[Tensor, "b n d"], kind: str, num_prefix: int, kept_prefix: int
) -> Float[Tensor, "b *n d"]:
    """The part of a feature map that is compared.

    Args:
        tokens: prefix tokens, then patches.
        kind: all tokens (`map`), `patches`, the `class_token`, or the mean of the patches
            (`pooled`, `logits`).
        num_prefix: prefix tokens of this model.
        kept_prefix: how many of them, from the first, belong to the whole map.
    """
    patches = tokens[:, num_prefix:]
    if kind == "class_token":
        return tokens[:, 0]
    if kind in ("pooled", "logits"):
        return patches.mean(dim=1)
    if kind == "patches" or kept_prefix == 0:
        return patches
    return torch.cat([tokens[:, :kept_prefix], patches], dim=1)


def resize_map(
    tokens: Float[Tensor, "b n d"], num_prefix: int, old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "b m d"]:
    """Bicubic resize of the patches of a feature map; prefix tokens stay."""
    prefix, patches = tokens[:, :num_prefix], tokens[:, num_prefix:]
    image = patches.mT.unflatten(2, old)
    resized = F.interpolate(image, size=new, mode="bicubic", align_corners=False)
    return torch.cat([prefix, resized.flatten(2).mT], dim=1)


def fitting_grids(
    config: FeatureDistillationConfig,
    student: Backbone,
    teacher: Backbone,
    ours: Shape,
    theirs: Shape,
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The teacher's grid and the student's where the map has to be resized; else None.

    Raises:
        UserError: a token is missing on one side, or the grids differ and may not be resized.
    """
    if config.target == "class_token":
        for name, model in (("student", student), ("teacher", teacher)):
            if not model.has_class_token:
                raise UserError(f"method.target=class_token, but the {name} has no class token")
    if config.target == "map" and student.num_prefix_tokens > teacher.num_prefix_tokens:
        raise UserError(
            f"the student leads with {student.num_prefix_tokens} class or register tokens and the "
            f"teacher with {teacher.num_prefix_tokens}; set method.target=patches or "
            "student.class_token=false"
        )
    if config.target not in ("map", "patches") or ours.grid == theirs.grid:
        return None
    if not config.resize_map:
        raise UserError(
            f"the student's map is {ours.grid[0]}x{ours.grid[1]} and the teacher's "
            f"{theirs.grid[0]}x{theirs.grid[1]} (rows x columns): choose "
            "student.patch_size and data.image_size or teacher.image_size so that both are equal, "
            "or set method.resize_map=true"
        )
    return theirs.grid, ours.grid
