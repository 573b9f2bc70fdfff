"""From a decoded picture to the pixels of a batch: random crops to train, a centre crop to test.

Everything stays uint8 in channels-last memory; normalisation belongs to each model.
"""

from typing import Protocol

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from vistill.augment.crops import (
    Bounds,
    Box,
    Interpolation,
    centre_box,
    covering,
    crop,
    random_box,
    ratio_for,
    resize,
)
from vistill.augment.randaugment import RandAugment
from vistill.image_size import ImageSize, height_width

LARGEST_WITH_MARGIN = 224
LONGEST_STRIP = 16


class Transform(Protocol):
    """What a loader applies to every decoded picture or clip; it may make several views of it."""

    def __call__(
        self, decoded: UInt8[Tensor, "3 *size"], rng: np.random.Generator, /
    ) -> UInt8[Tensor, "3 *size"] | list[UInt8[Tensor, "3 *size"]]: ...


class TrainTransform:
    """Random resized crop, horizontal flip, optional RandAugment.

    Args:
        size: side of the result in pixels, or (height, width).
        scale: smallest and largest share of the picture's area.
        ratio: smallest and largest width over height, where 1 is that of the result.
        interpolation: how crops are resized.
        flip: probability of a horizontal flip.
        rand_augment: e.g. `rand-m9-mstd0.5-inc1`, in timm's notation; None for none.
        retries: tries for a box that fits; 0 for the clipped single draw of MAE's linear probe.
    """

    def __init__(
        self,
        size: ImageSize,
        scale: Bounds = (0.2, 1.0),
        ratio: Bounds = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bicubic",
        flip: float = 0.5,
        rand_augment: str | None = None,
        *,
        retries: int = 10,
    ) -> None:
        self.size = height_width(size)
        self.scale = scale
        self.ratio = ratio_for(self.size, ratio)
        self.interpolation = interpolation
        self.flip = flip
        self.rand_augment = None if rand_augment is None else RandAugment(rand_augment)
        self.retries = retries

    def __call__(
        self, image: UInt8[Tensor, "3 h w"], rng: np.random.Generator
    ) -> UInt8[Tensor, "3 height width"]:
        # Crop first: a resize that knows the surroundings would blend them into the border.
        image = resize(crop(image, self.box(image, rng)), *self.size, self.interpolation)
        if rng.random() < self.flip:
            image = image.flip(-1)
        return image if self.rand_augment is None else self.rand_augment(image, rng)

    def box(self, image: UInt8[Tensor, "3 h w"], rng: np.random.Generator) -> Box:
        """The random crop of a picture."""
        height, width = image.shape[1:]
        return random_box(height, width, self.scale, self.ratio, rng, self.retries)


class EvalTransform:
    """Shorter side to `int(size / crop_ratio)`, then the centre; above 224 px without that margin.

    For a rectangle the picture is resized until it covers that rectangle and its margin.

    Args:
        size: side of the result in pixels, or (height, width).
        crop_ratio: share of the resized shorter side that the crop keeps.
        interpolation: how the picture is resized.
    """

    def __init__(
        self, size: ImageSize, crop_ratio: float = 0.875, interpolation: Interpolation = "bicubic"
    ) -> None:
        self.size = height, width = height_width(size)
        margin = crop_ratio if max(self.size) <= LARGEST_WITH_MARGIN else 1
        self.covered = int(height / margin), int(width / margin)
        self.interpolation = interpolation

    def __call__(
        self, image: UInt8[Tensor, "3 h w"], rng: np.random.Generator | None = None
    ) -> UInt8[Tensor, "3 height width"]:
        height, width = image.shape[1:]
        tall, wide = self.size
        # Enlarging a one-pixel line whole would fill the memory.
        kept = (
            min(height, max(1, LONGEST_STRIP * width * tall // wide)),
            min(width, max(1, LONGEST_STRIP * height * wide // tall)),
        )
        image = crop(image, centre_box(height, width, *kept))
        height, width = covering(*kept, self.covered)
        image = resize(image, height, width, self.interpolation)
        return crop(image, centre_box(height, width, *self.size))
