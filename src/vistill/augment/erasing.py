"""Random erasing with pixel noise, per sample and on the device (arXiv 1708.04896; spec 7)."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vistill.random import Stream, per_sample_uniform

_AREA = (0.02, 1 / 3)
_LOG_ASPECT = math.log(1 / 0.3)
_ATTEMPTS = 10
_DRAWS = 1 << 23


def random_erasing(
    images: Float[Tensor, "b 3 *size"], seeds: Int[Tensor, " b"], probability: float
) -> Float[Tensor, "b 3 *size"]:
    """Replace one rectangle of some pictures, or of all frames of some clips, by normal noise.

    Its area is uniform in 2 % to a third of the picture, its aspect log-uniform in 0.3 to 1/0.3;
    the first of ten proposals that is smaller than the picture is taken, as in timm.

    Args:
        images: normalised, so that the noise has the pixels' own scale.
        seeds: every draw of a sample derives from its seed.
        probability: of erasing anything.
    """
    height, width = images.shape[-2:]
    draws = per_sample_uniform(seeds, 3 + 2 * _ATTEMPTS, Stream.RANDOM_ERASING)
    area = (_AREA[0] + (_AREA[1] - _AREA[0]) * draws[:, 3 : 3 + _ATTEMPTS]) * height * width
    aspect = ((2 * draws[:, 3 + _ATTEMPTS :] - 1) * _LOG_ASPECT).exp()
    tall, wide = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (tall < height) & (wide < width)
    first = fits.int().argmax(dim=1, keepdim=True)
    erased = (draws[:, 0] < probability) & fits.any(dim=1)
    tall, wide = tall.gather(1, first), wide.gather(1, first)
    top = (draws[:, 1:2] * (height - tall + 1)).long()
    left = (draws[:, 2:3] * (width - wide + 1)).long()
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    in_rows = (rows >= top) & (rows < top + tall) & erased[:, None]
    in_columns = (columns >= left) & (columns < left + wide)
    rectangle = in_rows[:, :, None] & in_columns[:, None, :]
    inside = rectangle.view(-1, *(1,) * (images.dim() - 3), height, width)
    count = images[0].numel()
    # Whole clips have millions of draws, whose integers take many times the memory of the noise.
    parts = [_normal(some, count) for some in seeds.split(max(1, _DRAWS // count))]
    noise = torch.cat(parts).view(images.shape)
    return torch.where(inside, noise.to(images.dtype), images)


def _normal(seeds: Int[Tensor, " b"], count: int) -> Float[Tensor, "b count"]:
    """Standard normal draws of each sample (Box–Muller)."""
    pairs = (count + 1) // 2
    uniform = per_sample_uniform(seeds, 2 * pairs, Stream.ERASING_NOISE)
    radius = (-2 * (uniform[:, :pairs] + 2.0**-25).log()).sqrt()
    angle = 2 * math.pi * uniform[:, pairs:]
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]
