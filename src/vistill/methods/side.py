"""What student and teacher need alike: pixels at their own size, and per-sample drop path."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vistill.errors import UserError
from vistill.models.backbone import Backbone
from vistill.views.noise import Stream, per_sample_uniform


def drop_path_noise(
    model: Backbone, seeds: Int[Tensor, " b"], stream: Stream
) -> Float[Tensor, "rows b"] | None:
    """Per-sample draws for the model's residual branches; None where it drops none of them."""
    draws = getattr(model, "num_drop_path_draws", 0)
    return per_sample_uniform(seeds, draws, stream).T if draws else None


def pixels_for(
    model: Backbone, pixels: Float[Tensor, "b 3 *size"], *, antialias: bool = True
) -> Float[Tensor, "b 3 *size"]:
    """Pixels at the size that the model was built for, resized where they have another."""
    if tuple(pixels.shape[-2:]) == tuple(model.image_size):
        return pixels
    if pixels.dim() == 5:  # frame by frame
        frames = pixels_for(model, pixels.transpose(1, 2).flatten(0, 1), antialias=antialias)
        return frames.unflatten(0, (-1, pixels.shape[2])).transpose(1, 2)
    return F.interpolate(pixels, size=model.image_size, mode="bilinear", antialias=antialias)


def rising(rate: float, depth: int) -> list[float]:
    """Drop path rates from zero in the first block to `rate` in the last."""
    return [rate * i / max(1, depth - 1) for i in range(depth)]


def set_drop_path(model: Backbone, rates: Sequence[float], side: str) -> None:
    """Stochastic depth of `model`, one rate per block.

    Raises:
        UserError: if it has none and some rate is above zero.
    """
    setter: Any = getattr(model, "set_drop_path", None)
    if setter is not None:
        setter(rates)
    elif any(rates):
        raise UserError(
            f"{side}.drop_path is only possible for vistill's own ViT; set {side}.drop_path=0"
        )
