"""Brightness, contrast and saturation jitter of a batch on its device (TinyMIM's student view)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vistill.random import Stream, per_sample_uniform

_BRIGHTNESS, _CONTRAST = 0, 1


def _grey(levels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """ITU-R 601 luma in Pillow's 16-bit fixed point."""
    red, green, blue = levels.unbind(1)
    grey = torch.add(red * 19595, green, alpha=38470)  # whole numbers below 2^24: exact
    return grey.add_(blue, alpha=7471).add_(32768).div_(65536).floor_()[:, None]


def apply_color_jitter(
    pixels: Float[Tensor, "b 3 h w"],
    factors: Float[Tensor, "b 3"],
    order: Int[Tensor, "b 3"],
) -> Float[Tensor, "b 3 h w"]:
    """Blend every picture with black, its mean grey and its grey version, in its own order.

    Every step rounds down to whole grey levels and clips, as Pillow's enhancers do on 8-bit
    pictures, so that the result equals the published pipeline.

    Args:
        pixels: values in [0, 1].
        factors: brightness, contrast and saturation factor of each sample (1: unchanged).
        order: operations (0 brightness, 1 contrast, 2 saturation) in the order to apply them.
    """
    if pixels.device.type == "cpu" and not (pixels.requires_grad or torch.compiler.is_compiling()):
        return _on_host(pixels, factors, order)
    return _batched(pixels, factors, order)


def _batched(
    pixels: Float[Tensor, "b 3 h w"],
    factors: Float[Tensor, "b 3"],
    order: Int[Tensor, "b 3"],
) -> Float[Tensor, "b 3 h w"]:
    """All pictures in the same operations, so that a device is never waited for."""
    levels = torch.round(pixels * 255)
    for operation in order.unbind(1):
        kind = operation[:, None, None, None]
        factor = factors.gather(1, operation[:, None])[:, :, None, None]
        grey = _grey(levels)
        mean = torch.floor(grey.mean(dim=(2, 3), keepdim=True) + 0.5)
        constant = torch.where(kind == _BRIGHTNESS, torch.zeros_like(mean), mean)
        blend_with = torch.where(kind <= _CONTRAST, constant, grey)
        levels = torch.floor((blend_with + factor * (levels - blend_with)).clamp(0, 255))
    return levels / 255


def _on_host(
    pixels: Float[Tensor, "b 3 h w"],
    factors: Float[Tensor, "b 3"],
    order: Int[Tensor, "b 3"],
) -> Float[Tensor, "b 3 h w"]:
    """The same picture by picture, each in the processor's cache, and without a grey version where
    none is needed."""
    found = torch.empty_like(pixels, memory_format=torch.contiguous_format)
    told = zip(found, pixels, factors.tolist(), order.tolist(), strict=True)
    for levels, picture, factor, operations in told:
        torch.mul(picture, 255, out=levels).round_()
        for operation in operations:
            if operation == _BRIGHTNESS:
                levels.mul_(factor[operation])
            else:
                grey = _grey(levels[None])[0]
                if operation == _CONTRAST:
                    grey = torch.floor(grey.mean() + 0.5)
                levels.sub_(grey).mul_(factor[operation]).add_(grey)
            levels.clamp_(0, 255).floor_()
        levels.div_(255)
    return found


def color_jitter(
    pixels: Float[Tensor, "b 3 h w"],
    seeds: Int[Tensor, " b"],
    strength: tuple[float, float, float],
) -> Float[Tensor, "b 3 h w"]:
    """Jitter each sample as `jitter_draws` says."""
    return apply_color_jitter(pixels, *jitter_draws(seeds, strength))


def jitter_draws(
    seeds: Int[Tensor, " b"], strength: tuple[float, float, float]
) -> tuple[Float[Tensor, "b 3"], Int[Tensor, "b 3"]]:
    """Of each sample factors in [max(0, 1 - s), 1 + s], and a random order of operations."""
    # Without tables of numbers: copying them to the device would make the host wait for it.
    draws = per_sample_uniform(seeds, 4, Stream.COLOR_JITTER)
    lows = [max(0.0, 1.0 - s) for s in strength]
    columns = zip(draws[:, :3].unbind(1), lows, strength, strict=True)
    factors = torch.stack([low + draw * (1.0 + s - low) for draw, low, s in columns], dim=1)
    rank = (draws[:, 3] * 6).long()  # of the six orders in lexicographic order
    first = rank // 2
    second = torch.where(rank % 2 == 0, (first == 0).long(), 2 - (first == 2).long())
    order = torch.stack([first, second, 3 - first - second], dim=1)
    return factors, order
