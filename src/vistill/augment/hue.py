"""One shift of hue, saturation and value for all frames of a clip (spec amd 11.4)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vistill.random import Stream, per_sample_uniform

_HUE, _SATURATION, _VALUE = 20 / 360, 0.1, 0.1


def color_shift(
    pixels: Float[Tensor, "b 3 *size"], seeds: Int[Tensor, " b"]
) -> Float[Tensor, "b 3 *size"]:
    """Turn the hue by up to 20 degrees and scale saturation and value by up to a tenth.

    Args:
        pixels: values in [0, 1]; so is the result.
        seeds: every draw of a sample derives from its seed.
    """
    draws = 2 * per_sample_uniform(seeds, 3, Stream.COLOR_JITTER) - 1
    turn, saturate, value = (
        one.view(-1, *(1,) * (pixels.dim() - 2)) for one in draws.to(pixels.dtype).unbind(1)
    )
    return apply_color_shift(pixels, _HUE * turn, 1 + _SATURATION * saturate, 1 + _VALUE * value)


def apply_color_shift(
    pixels: Float[Tensor, "b 3 *size"],
    turn: Float[Tensor, "b *size"],
    saturation: Float[Tensor, "b *size"],
    value: Float[Tensor, "b *size"],
) -> Float[Tensor, "b 3 *size"]:
    """Hue turned by a share of the circle, saturation and value multiplied.

    With hue in sixths, a channel is v · (1 − s · max(0, min(k, 4 − k, 1))) at k = (n + 6 h) mod 6,
    n being 5, 3 and 1 for red, green and blue.
    """
    red, green, blue = pixels.unbind(1)
    high, low = pixels.amax(dim=1), pixels.amin(dim=1)
    spread = (high - low).clamp(min=1e-8)
    hue = torch.where(
        high == red,
        (green - blue) / spread,
        torch.where(high == green, 2 + (blue - red) / spread, 4 + (red - green) / spread),
    )
    hue = hue + 6 * turn
    saturation = (saturation * (high - low) / high.clamp(min=1e-8)).clamp(0, 1)
    value = (value * high).clamp(0, 1)
    channels = []
    for offset in (5, 3, 1):
        k = (offset + hue) % 6
        channels.append(value * (1 - saturation * torch.minimum(k, 4 - k).clamp(0, 1)))
    return torch.stack(channels, dim=1)
