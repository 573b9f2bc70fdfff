"""From decoded frames to the pixels of clips: one crop for all frames; spec amd 10.3, 11.2, 11.3.

Everything stays uint8 in time-height-width-channel memory, as decoded.
"""

from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from vistill.augment.crops import (
    Bounds,
    Box,
    Interpolation,
    centre_box,
    covering,
    random_box,
    ratio_for,
)
from vistill.augment.randaugment import RandAugment
from vistill.image_size import ImageSize, height_width

SCALES = (1.0, 0.875, 0.75, 0.66)
SNAP = 2
"""Pixels within which a scale counts as the target size."""


def multi_scale_boxes(height: int, width: int, size: ImageSize) -> list[list[Box]]:
    """The crops that pre-training chooses from: ten sizes, thirteen anchors each.

    Sizes are shares of the shorter side (of the largest crop as `size` is shaped), width and height
    at most one share apart; anchors are corners, centre, middles of the edges and quarter points.
    """
    wanted = tall, wide = height_width(size)
    largest = min(height, max(1, width * tall // wide)), min(width, max(1, height * wide // tall))
    heights, widths = (
        [_snapped(max(1, int(side * scale)), one, side) for scale in SCALES]
        for side, one in zip(largest, wanted, strict=True)
    )
    sizes = [(heights[i], widths[j]) for i, j in product(range(4), repeat=2) if abs(i - j) <= 1]
    # In quarters of the free height and width; the order is that of the published code.
    anchors = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    anchors += [(2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3)]
    return [
        [Box(y * ((height - h) // 4), x * ((width - w) // 4), h, w) for y, x in anchors]
        for h, w in sizes
    ]


def _snapped(side: int, wanted: int, largest: int) -> int:
    return wanted if abs(side - wanted) <= SNAP and wanted <= largest else side


def multi_scale_box(height: int, width: int, size: ImageSize, rng: np.random.Generator) -> Box:
    """One of `multi_scale_boxes`: a size, then an anchor."""
    boxes = multi_scale_boxes(height, width, size)
    anchors = boxes[rng.integers(len(boxes))]
    return anchors[rng.integers(len(anchors))]


def crop_clip(clip: UInt8[Tensor, "3 t h w"], box: Box) -> UInt8[Tensor, "3 t bh bw"]:
    """A view of the box in all frames."""
    return clip[..., box.top : box.top + box.height, box.left : box.left + box.width]


def resize_clip(
    clip: UInt8[Tensor, "3 t h w"],
    height: int,
    width: int,
    interpolation: Interpolation = "bilinear",
    *,
    antialias: bool = True,
) -> UInt8[Tensor, "3 t height width"]:
    """Resize every frame, antialiased like Pillow or else like OpenCV, within a grey level."""
    if clip.shape[2:] == (height, width):
        return clip
    frames = clip.permute(1, 0, 2, 3)  # to torch: a batch of pictures in channels-last memory
    frames = F.interpolate(frames, (height, width), mode=interpolation, antialias=antialias)
    return frames.permute(1, 0, 2, 3)


class VideoTrainTransform:
    """A random crop, the same for all frames, and what else the frames share.

    Args:
        size: side of the result in pixels, or (height, width).
        crop: `multi_scale` as in pre-training (spec amd 10.3), or `resized` as in fine-tuning.
        scale: smallest and largest share of a frame's area, of `resized`.
        ratio: smallest and largest width over height, where 1 is that of the result, of `resized`.
        interpolation: how crops are resized.
        antialias: whether reducing averages (Pillow) or picks (the published fine-tuning).
        flip: probability of a horizontal flip of all frames.
        rand_augment: e.g. `rand-m7-n4-mstd0.5-inc1`, applied to whole frames before the crop.
    """

    def __init__(
        self,
        size: ImageSize,
        crop: str = "multi_scale",
        scale: Bounds = (0.08, 1.0),
        ratio: Bounds = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bilinear",
        flip: float = 0.0,
        rand_augment: str | None = None,
        *,
        antialias: bool = True,
    ) -> None:
        self.size = height_width(size)
        self.crop = crop
        self.scale = scale
        self.ratio = ratio_for(self.size, ratio)
        self.interpolation = interpolation
        self.antialias = antialias
        self.flip = flip
        self.rand_augment = None if rand_augment is None else RandAugment(rand_augment)

    def __call__(
        self, clip: UInt8[Tensor, "3 t h w"], rng: np.random.Generator
    ) -> UInt8[Tensor, "3 t height width"]:
        if self.rand_augment is not None:
            clip = self._augmented(clip, self.rand_augment, rng)
        clip = crop_clip(clip, self.box(clip, rng))
        clip = resize_clip(clip, *self.size, self.interpolation, antialias=self.antialias)
        return clip.flip(-1) if rng.random() < self.flip else clip

    def box(self, clip: UInt8[Tensor, "3 t h w"], rng: np.random.Generator) -> Box:
        """The random crop of a clip."""
        height, width = clip.shape[2:]
        if self.crop == "multi_scale":
            return multi_scale_box(height, width, self.size, rng)
        return random_box(height, width, self.scale, self.ratio, rng, retries=10)

    @staticmethod
    def _augmented(
        clip: UInt8[Tensor, "3 t h w"], augment: RandAugment, rng: np.random.Generator
    ) -> UInt8[Tensor, "3 t h w"]:
        seed = int(rng.integers(2**63))
        frames = [augment(frame, np.random.default_rng(seed)) for frame in clip.unbind(1)]
        return torch.stack([frame.permute(1, 2, 0) for frame in frames]).permute(3, 0, 1, 2)


class VideoTestTransform:
    """Shorter side to `size`, then crops along the longer one (spec amd 11.3).

    For a rectangle frames are resized until they cover it, and crops lie along what sticks out.

    Args:
        size: side of the result in pixels, or (height, width).
        clips: clips of the video that follow each other in time in what is given.
        crops: crops of every clip; a single one is the centre.

    Called with `[3, clips * t, h, w]` it returns `clips * crops` tensors `[3, t, height, width]`,
    all crops of the first clip first.
    """

    def __init__(self, size: ImageSize, clips: int = 1, crops: int = 1) -> None:
        self.size = height_width(size)
        self.clips = clips
        self.crops = crops

    def __call__(
        self, clip: UInt8[Tensor, "3 t h w"], rng: np.random.Generator | None = None
    ) -> list[UInt8[Tensor, "3 tc height width"]]:
        height, width = covering(clip.shape[2], clip.shape[3], self.size)
        clip = resize_clip(clip, height, width, antialias=False)
        boxes = self._boxes(height, width)
        return [crop_clip(part, box) for part in clip.chunk(self.clips, 1) for box in boxes]

    def _boxes(self, height: int, width: int) -> list[Box]:
        tall, wide = self.size
        if self.crops == 1:
            return [centre_box(height, width, tall, wide)]
        free = [(k * (height - tall), k * (width - wide)) for k in range(self.crops)]
        last = self.crops - 1
        return [Box(int(y / last), int(x / last), tall, wide) for y, x in free]
