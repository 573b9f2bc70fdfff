"""Crops that the device cuts out and resizes, while loader processes only decode and draw them."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from torch import Tensor

from vistill.data.video.transforms import VideoTrainTransform, resize_clip

LARGEST = 2
"""Times the size of a crop above which frames are reduced before shipping."""


class Shipment(NamedTuple):
    """Whole frames of some clips and what to cut out of them.

    Attributes:
        frames: all clips, one after the other, each `[t, h, w, 3]`.
        shapes: t, h and w of every clip.
        crops: of every row of the batch: its clip, top, left, height, width, and whether to flip.
    """

    frames: UInt8[Tensor, " bytes"]
    shapes: Int[Tensor, "clips 3"]
    crops: Int[Tensor, "rows 6"]


class DeviceCrop:
    """The random crops of a `VideoTrainTransform`, cut on a device.

    Equal to the transform within a grey level, except for frames larger than `LARGEST` times the
    crop, which are reduced in two steps.

    Args:
        transform: draws the crops; without RandAugment, which no device does.
        device: cuts them.
    """

    def __init__(self, transform: VideoTrainTransform, device: torch.device) -> None:
        assert transform.rand_augment is None
        self.transform = transform
        self.device = device

    def bounded(self, clip: UInt8[Tensor, "3 t h w"]) -> UInt8[Tensor, "3 t bh bw"]:
        """The clip, smaller where its frames are much larger than a crop."""
        height, width = clip.shape[2:]
        tall, wide = self.transform.size
        scale = LARGEST * max(tall / height, wide / width)
        if scale >= 1:
            return clip
        return resize_clip(clip, round(height * scale), round(width * scale))

    def draw(self, clip: UInt8[Tensor, "3 t h w"], rng: np.random.Generator) -> list[int]:
        """One crop: top, left, height, width and whether to flip."""
        return [*self.transform.box(clip, rng), int(rng.random() < self.transform.flip)]

    @staticmethod
    def pack(clips: list[UInt8[Tensor, "3 t h w"]], crops: list[list[int]]) -> Shipment:
        """One buffer for all clips: a tensor each would be a file each between processes."""
        shapes = torch.tensor([clip.shape[1:] for clip in clips])
        flat = [clip.movedim(0, -1).reshape(-1) for clip in clips]
        return Shipment(torch.cat(flat), shapes, torch.tensor(crops))

    def cut(self, shipment: Shipment) -> UInt8[Tensor, "rows 3 t height width"]:
        """The pixels of a batch, on the device."""
        frames = shipment.frames.to(self.device, non_blocking=True)
        shapes = shipment.shapes.tolist()
        parts = frames.split([3 * t * h * w for t, h, w in shapes])
        clips = [part.view(*shape, 3) for part, shape in zip(parts, shapes, strict=True)]
        size, mode = self.transform.size, self.transform.interpolation
        rows = []
        for clip, top, left, height, width, flip in shipment.crops.tolist():
            box = clips[clip][:, top : top + height, left : left + width].permute(0, 3, 1, 2)
            # CUDA resizes floating point only.
            row = F.interpolate(box.float(), size, mode=mode, antialias=self.transform.antialias)
            row = row.round().clamp(0, 255).byte()
            rows.append((row.flip(-1) if flip else row).permute(0, 2, 3, 1))
        return torch.stack(rows).movedim(-1, 1)
