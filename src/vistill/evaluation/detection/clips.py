"""Clips around key frames, with the boxes of the people on them (spec amd 11.4)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vistill.config.detection import DetectionSampling
from vistill.data.video.frames import RATE, open_video
from vistill.data.video.reader import BrokenVideo
from vistill.evaluation.boxed import BoxedReader
from vistill.evaluation.detection.ava import KeyFrame
from vistill.evaluation.detection.boxes import clip_boxes
from vistill.evaluation.detection.detector import DetectionBatch

_MEAN_COLOUR = (123, 116, 103)


class View(NamedTuple):
    """How a clip is cut around its key frame.

    Attributes:
        frames: per clip, the key frame in the middle.
        stride: frames of the video per frame of the clip.
        sampling: how they lie around the key frame, see `DetectionConfig`.
        span: frames of the video that `uniform` and `legacy_sparse` choose from.
        short_side: to which frames are resized, or to more where they would not cover `size`.
        size: height and width of a random crop.
        whole: take the whole frame instead of a crop, padded to whole patches.
        patch_size: side of a patch.
        flip: probability of a horizontal flip.
    """

    frames: int
    stride: int
    short_side: int
    size: tuple[int, int]
    whole: bool
    patch_size: int
    flip: float
    sampling: DetectionSampling = "dense"
    span: int = 300

    @property
    def steps(self) -> Int[np.ndarray, " frames"]:
        """Places of the clip's frames, counted from the key frame."""
        if self.sampling == "dense":
            return (np.arange(self.frames) - self.frames // 2) * self.stride
        return frames_of_span(self.span, self.frames, self.stride, self.sampling) - self.span // 2


def frames_of_span(
    n: int, frames: int, stride: int, sampling: Literal["uniform", "legacy_sparse"]
) -> Int[np.ndarray, " frames"]:
    """Which of `n` frames are taken: the middle one of each of `frames` equal parts, or every
    `stride`-th about the middle (spec umt 8)."""
    if sampling == "uniform":
        return (n / frames * (np.arange(frames) + 0.5)).astype(np.int64)
    return (n - 1 - (frames - 1) * stride) // 2 + stride * np.arange(frames)


class KeyFrameReader(BoxedReader):
    """Reads key frames as clips with boxes and actions.

    Args:
        frames: the key frames, which a request counts.
        files: video file by name.
        start_seconds: time in the lists at which the files begin.
        num_actions: columns of the multi-hot labels.
        view: how clips are cut.
        seed: the run's seed.
        replace: take another key frame in the place of a broken one, instead of leaving it out.
        fps: frames per second of videos that are folders of frames.
    """

    batch = DetectionBatch

    def __init__(
        self,
        frames: Sequence[KeyFrame],
        files: Mapping[str, Path],
        start_seconds: float,
        num_actions: int,
        view: View,
        seed: int,
        *,
        replace: bool,
        fps: float = RATE,
    ) -> None:
        super().__init__(len(frames), seed, replace=replace)
        self.fps = fps
        self.frames, self.files, self.start_seconds = frames, files, start_seconds
        self.num_actions, self.view = num_actions, view

    def name(self, sample: int) -> str:
        """What a key frame is called."""
        return f"{self.frames[sample].video} at {self.frames[sample].seconds:g} s"

    def read(self, sample: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        frame = self.frames[sample]
        clip, boxes, kept = self._cut(frame, rng)
        return {"pixels": clip, "boxes": boxes, "actions": self._multi_hot(frame)[kept]}

    def _cut(
        self, frame: KeyFrame, rng: np.random.Generator
    ) -> tuple[UInt8[Tensor, "3 t h w"], Float[Tensor, "k 4"], Tensor]:
        """A clip, the boxes in its pixels, and which of the boxes are seen at all."""
        view = self.view
        clip = _resized(self._read(frame), view.short_side, view.size)
        height, width = clip.shape[-2:]
        boxes = torch.from_numpy(frame.boxes) * torch.tensor([width, height] * 2)
        kept = torch.ones(len(boxes), dtype=torch.bool)
        if view.whole:
            down, right = -height % view.patch_size, -width % view.patch_size
            padded = torch.tensor(_MEAN_COLOUR, dtype=torch.uint8)[:, None, None, None]
            padded = padded.repeat(1, view.frames, height + down, width + right)
            padded[..., :height, :width] = clip
            return padded, boxes, kept
        tall, wide = view.size
        top, left = rng.integers(0, [height - tall, width - wide], endpoint=True).tolist()
        clip = clip[..., top : top + tall, left : left + wide]
        boxes = clip_boxes(boxes - torch.tensor([left, top] * 2), tall, wide)
        if rng.random() < view.flip:
            clip = clip.flip(-1)
            boxes = torch.cat([wide - 1 - boxes[:, 2:3], boxes[:, 1:2],
                               wide - 1 - boxes[:, :1], boxes[:, 3:]], dim=1)  # fmt: skip
        kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        return clip.contiguous(), boxes[kept], kept

    def _read(self, frame: KeyFrame) -> UInt8[Tensor, "3 t h w"]:
        with open_video(str(self.files[frame.video]), fps=self.fps) as video:
            seconds = frame.seconds - self.start_seconds
            step = 1 / video.fps if video.fps else 0.0
            if not -step <= seconds <= video.times[-1] + step:
                raise BrokenVideo(f"it ends at {self.start_seconds + video.times[-1]:.3g} s")
            middle = int(np.abs(video.times - seconds).argmin())
            return video.read(np.clip(middle + self.view.steps, 0, video.num_frames - 1))

    def _multi_hot(self, frame: KeyFrame) -> Float[Tensor, "k c"]:
        labels = torch.zeros(len(frame.actions), self.num_actions)
        for row, actions in enumerate(frame.actions):
            labels[row, [action - 1 for action in actions]] = 1.0
        return labels


def _resized(
    clip: UInt8[Tensor, "3 t h w"], short_side: int, covered: tuple[int, int]
) -> UInt8[Tensor, "3 t h w"]:
    height, width = clip.shape[-2:]
    least = max(short_side, covered[0]), max(short_side, covered[1])
    scale = max(short_side / min(height, width), covered[0] / height, covered[1] / width)
    size = (max(least[0], round(height * scale)), max(least[1], round(width * scale)))
    frames = clip.transpose(0, 1)
    return F.interpolate(frames, size, mode="bilinear", antialias=True).transpose(0, 1)
