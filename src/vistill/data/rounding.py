"""Tokens of a record as few bits: 256 or 16 levels between the ends of every channel's range."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

STEP_GROUP, CENTRE_GROUP = 8, 64
"""Neighbouring channels that share a step of the 16 levels, and a unit of their centres."""
_TINY = torch.finfo(torch.float32).tiny


def bytes8(tokens: int, channels: int) -> int:
    """Bytes of a record of `encode8`."""
    return tokens * channels + 8 * channels


def encode8(values: Float[Tensor, "b n c"]) -> UInt8[Tensor, "b bytes"]:
    """256 levels from the smallest to the largest value of every channel: no value is off by more
    than 1/510 of its channel's range."""
    low, high = values.aminmax(dim=1, keepdim=True)
    step = (high - low) / 255
    levels = (values - low) / step.clamp_min(_TINY)
    head = torch.cat([low, step], dim=1).flatten(1).contiguous().view(torch.uint8)
    return torch.cat([head, levels.round().to(torch.uint8).flatten(1)], dim=1)


def decode8(raw: UInt8[Tensor, "b bytes"], tokens: int, channels: int) -> Float[Tensor, "b n c"]:
    """The inverse of `encode8`."""
    head = 8 * channels
    low, step = raw[:, :head].contiguous().view(torch.float32).chunk(2, dim=1)
    levels = raw[:, head:].unflatten(1, (tokens, channels))
    return levels * step[:, None] + low[:, None]


def bytes4(tokens: int, channels: int) -> int:
    """Bytes of a record of `encode4`: 5 % more than half a byte a value."""
    return (
        (tokens * channels + 1) // 2
        + channels
        + 2 * (_groups(channels, STEP_GROUP) + _groups(channels, CENTRE_GROUP))
    )


def encode4(values: Float[Tensor, "b n c"]) -> UInt8[Tensor, "b bytes"]:
    """16 levels around the middle of every channel's range, whose step the widest of its
    neighbours sets: no value is off by more than 1/28 of the widest range. Steps and units of the
    middles are in bf16, the middles themselves in 8 bits.

    Nothing is clipped: a token far out, of which attention makes much, weighs more than the rest.
    """
    low, high = values.aminmax(dim=1)
    middle = (low + high) / 2
    unit = _widest(middle.abs(), CENTRE_GROUP).div(127).to(torch.bfloat16)
    code = (middle / _each(unit, CENTRE_GROUP, middle).clamp_min(_TINY)).round().clamp(-127, 127)
    centre = code * _each(unit, CENTRE_GROUP, middle)
    reach = torch.maximum(high - centre, centre - low)
    step = _widest(reach, STEP_GROUP).div(7.5).to(torch.bfloat16)
    levels = (values - centre[:, None]) / _each(step, STEP_GROUP, middle).clamp_min(_TINY)[:, None]
    whole = (levels + 7.5).round().clamp(0, 15).to(torch.uint8).flatten(1)
    pairs = F.pad(whole, (0, whole.shape[1] % 2)).unflatten(1, (-1, 2))
    packed = pairs[..., 0] << 4 | pairs[..., 1]
    scales = torch.cat([unit, step], dim=1).view(torch.uint8)
    return torch.cat([scales, code.to(torch.int8).view(torch.uint8), packed], dim=1)


def decode4(raw: UInt8[Tensor, "b bytes"], tokens: int, channels: int) -> Float[Tensor, "b n c"]:
    """The inverse of `encode4`."""
    units, steps = _groups(channels, CENTRE_GROUP), _groups(channels, STEP_GROUP)
    scales, code, packed = raw.split(
        [2 * (units + steps), channels, raw.shape[1] - 2 * (units + steps) - channels], dim=1
    )
    unit, step = scales.contiguous().view(torch.bfloat16).split([units, steps], dim=1)
    codes = code.contiguous().view(torch.int8)
    centre = codes * _each(unit, CENTRE_GROUP, codes)
    pairs = torch.stack([packed >> 4, packed & 15], dim=2).flatten(1)
    levels = pairs[:, : tokens * channels].unflatten(1, (tokens, channels))
    return (levels - 7.5) * _each(step, STEP_GROUP, codes)[:, None] + centre[:, None]


def _groups(channels: int, size: int) -> int:
    return -(-channels // size)


def _widest(values: Float[Tensor, "b c"], size: int) -> Float[Tensor, "b g"]:
    """The largest of every group."""
    padded = F.pad(values, (0, -values.shape[1] % size))
    return padded.unflatten(1, (-1, size)).amax(dim=2)


def _each(of_groups: Tensor, size: int, channels: Tensor) -> Float[Tensor, "b c"]:
    """What a group has, for each of its channels."""
    return of_groups.float().repeat_interleave(size, dim=1)[:, : channels.shape[1]]


class Rounding(NamedTuple):
    """One way of rounding tokens."""

    nbytes: Callable[[int, int], int]
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor, int, int], Tensor]


ROUNDINGS = {
    "int8": Rounding(bytes8, encode8, decode8),
    "int4": Rounding(bytes4, encode4, decode4),
}
