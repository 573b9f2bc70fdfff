"""Crop geometry and resizing on uint8 pixels, as torchvision and MAE's linear probe define them."""

import math
from typing import Literal, NamedTuple

import numpy as np
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

Interpolation = Literal["bicubic", "bilinear"]
Bounds = tuple[float, float]
HeightWidth = tuple[int, int]
"""Height and width."""


class Box(NamedTuple):
    """A crop in pixels."""

    top: int
    left: int
    height: int
    width: int


def random_box(
    height: int, width: int, scale: Bounds, ratio: Bounds, rng: np.random.Generator, retries: int
) -> Box:
    """Sample a crop: area share uniform in `scale`, aspect ratio log-uniform in `ratio`.

    With retries, boxes that do not fit are drawn again and a central crop is the last resort
    (torchvision's RandomResizedCrop, 10 tries). With `retries=0` the one draw is clipped to the
    picture (MAE's linear probe).
    """
    for _ in range(max(retries, 1)):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if retries == 0:
            h, w = min(max(h, 1), height), min(max(w, 1), width)
        if 0 < h <= height and 0 < w <= width:
            top, left = rng.integers(0, [height - h, width - w], endpoint=True).tolist()
            return Box(top, left, h, w)
    h = min(height, round(width / ratio[0]))
    w = min(width, round(height * ratio[1]))
    return centre_box(height, width, h, w)


def ratio_for(size: HeightWidth, ratio: Bounds) -> Bounds:
    """Bounds of width over height, which `ratio` has relative to those of `size`."""
    own = size[1] / size[0]
    return ratio[0] * own, ratio[1] * own


def covering(height: int, width: int, target: HeightWidth) -> HeightWidth:
    """The sides of a picture that was resized, as it is, until it just covers `target`."""
    if width * target[0] <= height * target[1]:
        return max(target[0], int(target[1] * height / width)), target[1]
    return target[0], max(target[1], int(target[0] * width / height))


def centre_box(height: int, width: int, h: int, w: int) -> Box:
    """The middle `h` × `w` of a picture, rounded as torchvision's centre crop."""
    return Box(round((height - h) / 2), round((width - w) / 2), h, w)


def crop(image: UInt8[Tensor, "3 h w"], box: Box) -> UInt8[Tensor, "3 bh bw"]:
    """A view of the box."""
    return image[:, box.top : box.top + box.height, box.left : box.left + box.width]


def resize(
    image: UInt8[Tensor, "3 h w"], height: int, width: int, interpolation: Interpolation
) -> UInt8[Tensor, "3 height width"]:
    """Antialiased resize, equal to Pillow's within a grey level; keeps channels-last memory."""
    if image.shape[1:] == (height, width):
        return image
    # `image[None]` alone would get the batch stride of channels-first memory, which is resized more
    # slowly and comes out channels-first.
    batch = image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    return F.interpolate(batch, (height, width), mode=interpolation, antialias=True)[0]
