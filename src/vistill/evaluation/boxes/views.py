"""Pictures with boxes and shapes, scaled, cut and padded to one size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vistill.augment.crops import resize
from vistill.config.boxes import BoxesConfig
from vistill.data.broken import BrokenImage
from vistill.data.decode import EndMissing, decode_image
from vistill.data.source import Source
from vistill.evaluation.boxed import BoxedBatch, BoxedReader
from vistill.evaluation.boxes.annotations import Boxed, Things
from vistill.evaluation.boxes.shapes import mask_of
from vistill.evaluation.segmentation.crops import distorted

_PAD = (124, 116, 104)
_LEAST = 1.0
"""Pixels that a box has to have on either side after a cut."""


@dataclass
class ThingsBatch(BoxedBatch):
    """Pictures with the things on them. `inputs` hold `seen`, height and width of the part that is
    no padding, and `whole`, those of the picture before it was scaled.

    Attributes:
        classes: of every box, from 1; 0 is the background.
        masks: 1 where the thing of a box is, or None.
    """

    classes: Int[Tensor, " k"] | None = None
    masks: UInt8[Tensor, "k h w"] | None = None
    of_boxes: ClassVar[tuple[str, ...]] = ("classes", "masks")


class ThingsReader(BoxedReader):
    """Reads pictures with their boxes.

    Args:
        source: of the pictures.
        data: what is on them.
        options: how they are scaled, and in training changed.
        size: height and width of the result.
        seed: the run's seed.
        training: scale, cut, flip and distort; else a picture is shown whole.
        chosen: the pictures that samples are, by position; None: all.
    """

    batch = ThingsBatch

    def __init__(
        self,
        source: Source,
        data: Boxed,
        options: BoxesConfig,
        size: tuple[int, int],
        seed: int,
        *,
        training: bool,
        chosen: Sequence[int] | None = None,
    ) -> None:
        self.chosen = range(len(data.pictures)) if chosen is None else chosen
        super().__init__(len(self.chosen), seed, replace=training)
        self.source, self.data, self.options = source, data, options
        self.size, self.training = size, training

    def name(self, sample: int) -> str:
        return self.source.sample_name(self.chosen[sample])

    def read(self, sample: int, rng: np.random.Generator) -> Mapping[str, Any]:
        sample = self.chosen[sample]
        image = self._decoded(sample)
        height, width = image.shape[1:]
        things = self.data.things[sample]
        things = things.take(~things.apart)
        scale = rng.uniform(*self.options.scale) if self.training else 1.0
        scaled = scaled_size(height, width, self.options, self.size, scale)
        image = resize(image, *scaled, "bilinear")
        room = [max(0, side - most) for side, most in zip(scaled, self.size, strict=True)]
        top, left = rng.integers(0, room, endpoint=True).tolist() if self.training else (0, 0)
        image = image[:, top : top + self.size[0], left : left + self.size[1]]
        seen = (image.shape[1], image.shape[2])
        boxes = moved(things.boxes, (height, width), scaled, (top, left), seen)
        kept = ((boxes[:, 2:] - boxes[:, :2]) >= _LEAST).all(dim=1)
        things, boxes = things.take(kept.numpy()), boxes[kept]
        flipped = self.training and rng.random() < self.options.flip
        if flipped:
            image = image.flip(-1)
            boxes = mirrored(boxes, seen[1])
        if self.training and self.options.distort:
            image = (distorted(image.float() / 255, rng) * 255).round().clamp(0, 255).byte()
        found = {
            "pixels": padded(image, self.size),
            "boxes": boxes,
            "classes": torch.from_numpy(things.classes + 1),
            "inputs": {"seen": torch.tensor(seen), "whole": torch.tensor((height, width))},
        }
        if self.options.masks and self.training:
            found["masks"] = self._masks(things, (height, width), scaled, (top, left), flipped)
        return found

    def _decoded(self, sample: int) -> UInt8[Tensor, "3 h w"]:
        try:
            image = decode_image(self.source.read(sample), self.source.decoding.value_range)
        except EndMissing as error:
            if not self.source.decoding.allow_truncated:
                raise BrokenImage(str(error)) from error
            image = error.pixels
        told = self.data.things[sample].size
        if any(told) and told != tuple(image.shape[1:]):
            raise BrokenImage(
                f"it is {image.shape[2]}×{image.shape[1]} pixels, and its boxes are for "
                f"{told[1]}×{told[0]}"
            )
        return image

    def _masks(
        self,
        things: Things,
        whole: tuple[int, int],
        scaled: tuple[int, int],
        corner: tuple[int, int],
        flipped: bool,
    ) -> UInt8[Tensor, "k h w"]:
        top, left = corner
        made = torch.zeros(len(things.boxes), *self.size, dtype=torch.uint8)
        for row, shape in zip(made, things.shapes, strict=True):
            mask = torch.from_numpy(mask_of(shape, whole))
            mask = F.interpolate(mask[None, None], scaled, mode="nearest-exact")[0, 0]
            mask = mask[top : top + self.size[0], left : left + self.size[1]]
            row[: mask.shape[0], : mask.shape[1]] = mask.flip(-1) if flipped else mask
        return made


def scaled_size(
    height: int, width: int, options: BoxesConfig, size: tuple[int, int], scale: float = 1.0
) -> tuple[int, int]:
    """Height and width of a picture that fits into `size`, with a shorter side of at most
    `short_side`; both times `scale`."""
    factor = min(size[0] / height, size[1] / width)
    if options.short_side is not None:
        factor = min(factor, options.short_side / min(height, width))
    factor *= scale
    return max(1, round(height * factor)), max(1, round(width * factor))


def moved(
    boxes: Float[np.ndarray, "k 4"],
    whole: tuple[int, int],
    scaled: tuple[int, int],
    corner: tuple[int, int],
    seen: tuple[int, int],
) -> Float[Tensor, "k 4"]:
    """Boxes of a picture of size `whole` where they are in the part of size `seen` that begins at
    `corner` (row, column) of the `scaled` picture, cut to it."""
    factors = torch.tensor([scaled[1] / whole[1], scaled[0] / whole[0]] * 2)
    found = torch.from_numpy(boxes) * factors - torch.tensor([corner[1], corner[0]] * 2)
    most = torch.tensor([seen[1], seen[0]] * 2)
    return torch.minimum(found.clamp(min=0), most)


def mirrored(boxes: Float[Tensor, "k 4"], width: int) -> Float[Tensor, "k 4"]:
    """Boxes of the mirror image of a picture so wide."""
    x0, y0, x1, y1 = boxes.unbind(1)
    return torch.stack([width - x1, y0, width - x0, y1], dim=1)


def padded(image: UInt8[Tensor, "3 h w"], size: tuple[int, int]) -> UInt8[Tensor, "3 h2 w2"]:
    """The picture in the upper left corner of one of the mean colour."""
    found = torch.tensor(_PAD, dtype=torch.uint8)[:, None, None].repeat(1, *size)
    found[:, : image.shape[1], : image.shape[2]] = image
    return found
