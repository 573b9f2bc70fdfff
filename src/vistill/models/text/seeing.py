"""What a tower of clips makes of all of a clip, or of a picture, which is its first frame."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vistill.errors import UserError
from vistill.models.backbone import Tap
from vistill.models.vit import VisionTransformer


class Seen(NamedTuple):
    """Attributes:
    tokens: behind the final norm.
    frames: how many of them there are.
    """

    tokens: Float[Tensor, "b n d"]
    frames: int


def seen_whole(
    vision: VisionTransformer,
    images: Float[Tensor, "b 3 *size"],
    drop_path_noise: Float[Tensor, "rows b"] | None = None,
) -> Seen:
    """Tokens of normalised pictures or clips.

    Args:
        vision: of pictures, or of clips, a token a frame.
        images: of these.
        drop_path_noise: see `vistill.models.backbone.Backbone.tap`.
    """
    visible = None
    if images.dim() == 4 and vision.tubelet_size is not None:
        images, patches = images[:, :, None], vision.grid[0] * vision.grid[1]
        visible = torch.arange(patches, device=images.device).expand(len(images), -1)
    tap = Tap("norm", vision.depth)
    found = vision.tap(images, [tap], visible=visible, drop_path_noise=drop_path_noise)[tap]
    frames = 1 if images.dim() == 4 else images.shape[2]
    return Seen(found[:, vision.num_prefix_tokens :], frames)


def with_frames(vision: VisionTransformer, frames: int, origin: str) -> int:
    """Let a tower take clips of so many frames, which one of pictures sees by themselves; how many
    it takes.

    Raises:
        UserError: it cannot.
    """
    if vision.num_frames not in (1, frames):
        try:
            vision.resize(vision.image_size, frames)
        except ValueError as error:
            raise UserError(f"frames={frames} does not suit {origin}: {error}") from error
    return vision.num_frames
