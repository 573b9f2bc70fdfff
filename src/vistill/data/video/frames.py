"""A folder of numbered pictures, read like a video of which they are the frames."""

import hashlib
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vistill.data.broken import BrokenImage
from vistill.data.decode import decode_image
from vistill.data.folder import read_file
from vistill.data.frame_folders import frame_number
from vistill.data.processes import beat
from vistill.data.video.proof import Proof
from vistill.data.video.reader import BrokenVideo, Check, VideoReader

RATE = 25.0
"""Frames per second where nothing tells."""
_FLOW = re.compile(r"(?:flow_?)?[xyuv]_?")
"""How optical flow is named that lies beside the frames."""


class FrameFolder:
    """The pictures of one folder in the order of their numbers; the same to use as a
    `VideoReader`.

    Args:
        folder: its path.
        fps: frames per second.

    Attributes:
        num_frames: pictures that are there.
        told_frames: pictures by the first and the last number, and their usual distance.
        times: seconds `[num_frames]` of every frame after the first.
        fps: frames per second.
        codec: ending of the pictures' names.
        corrupt: frames so far that could not be decoded, of those that were asked for.

    Raises:
        BrokenVideo: no numbered picture in it, or several rows of them.
    """

    rotation, mirrored = 0, False
    proof: Proof | None = None

    def __init__(self, folder: str, fps: float = RATE) -> None:
        self._folder, self.fps, self.corrupt = folder, fps, 0
        self._names, numbers = _numbered(folder)
        self.num_frames, self.told_frames = len(numbers), int(numbers[-1]) + 1
        self.codec = os.path.splitext(self._names[0])[1][1:].lower()
        self.times: Float[np.ndarray, " n"] = numbers / fps
        self._size: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held open."""

    @property
    def height(self) -> int:
        """Pixels, of the first frame."""
        return self._known_size()[0]

    @property
    def width(self) -> int:
        """Pixels, of the first frame."""
        return self._known_size()[1]

    def between(self, start: float, end: float) -> range:
        """A folder of frames has no times.

        Raises:
            BrokenVideo: always.
        """
        raise BrokenVideo(
            f"is a folder of frames, in which {start:g} s to {end:g} s is no part: give "
            "start_frame and end_frame"
        )

    def read(self, indices: Sequence[int] | Int[np.ndarray, " t"]) -> UInt8[Tensor, "3 t h w"]:
        """Frames by number, in the order asked for and upright, as RGB.

        A frame that cannot be decoded repeats the nearest one before it that was asked for, else
        the first after it.

        Raises:
            BrokenVideo: more than half of the frames cannot be decoded, or their sizes differ.
        """
        wanted, places = np.unique(np.asarray(indices), return_inverse=True)
        found: dict[int, Tensor] = {}
        for number in wanted.tolist():
            frame = self._decode(number)
            if frame is not None:
                found[number] = frame
        lost = len(wanted) - len(found)
        self.corrupt += lost
        if 2 * lost > len(wanted) or not found:
            raise BrokenVideo(f"{lost} of {len(wanted)} frames cannot be decoded")
        known = np.array(sorted(found))
        nearest = np.maximum(np.searchsorted(known, wanted, side="right") - 1, 0)
        frames = [found[known[i]].movedim(0, -1) for i in nearest[places]]
        sizes = {(frame.shape[1], frame.shape[0]) for frame in frames}
        if len(sizes) > 1:
            (w, h), (other_w, other_h) = sorted(sizes)[:2]
            raise BrokenVideo(f"its frames differ in size: {w} × {h} and {other_w} × {other_h}")
        return torch.stack(frames).permute(3, 0, 1, 2)

    def frames(self) -> Iterator[tuple[int, Any]]:
        """Every frame that can be decoded, one after the other, with its number, for PyAV."""
        for number in range(self.num_frames):
            frame = self._decode(number)
            if frame is not None:
                pixels = np.ascontiguousarray(frame.movedim(0, -1).numpy())
                yield number, av.VideoFrame.from_ndarray(pixels, format="rgb24")

    def upright(self, pixels: UInt8[np.ndarray, "*t h w 3"]) -> UInt8[np.ndarray, "*t h w 3"]:
        """They are."""
        return pixels

    def check(self) -> Check:
        """Decode everything; numbers without a picture count as lost frames."""
        decoded = sum(self._decode(number) is not None for number in range(self.num_frames))
        return Check(decoded, self.told_frames - decoded, 0)

    def digest(self) -> tuple[int, str]:
        """Bytes of all frames, and their SHA-256."""
        size, digest = 0, hashlib.sha256()
        for name in self._names:
            data = read_file(os.path.join(self._folder, name))
            digest.update(data)
            size += len(data)
        return size, digest.hexdigest()

    def _decode(self, number: int) -> UInt8[Tensor, "3 h w"] | None:
        beat()
        try:
            return decode_image(read_file(os.path.join(self._folder, self._names[number])))
        except BrokenImage:
            return None

    def _known_size(self) -> tuple[int, int]:
        if self._size is None:
            height, width = self.read([0]).shape[-2:]
            self._size = height, width
        return self._size


def open_video(
    place: str | bytes, proof: Proof | None = None, fps: float = RATE
) -> VideoReader | FrameFolder:
    """The reader of a video by its path or bytes, or of a folder of frames.

    Args:
        place: path or bytes.
        proof: what `vistill prepare` found out about a video.
        fps: frames per second of a folder of frames.

    Raises:
        BrokenVideo: it cannot be read.
    """
    if isinstance(place, str) and os.path.isdir(place):
        return FrameFolder(place, fps)
    return VideoReader(place, proof)


def _numbered(folder: str) -> tuple[list[str], Int[np.ndarray, " n"]]:
    """Names of the frames of a folder in their order, and their numbers, counted from 0 by their
    usual distance."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise BrokenVideo(f"cannot be read: {error.strerror}") from error
    rows: dict[str, dict[int, str]] = defaultdict(dict)
    for name in names:
        place = frame_number(name)
        if place is not None:
            row, number = place
            if number in rows[row]:
                raise BrokenVideo(f"holds frame {number} twice: {rows[row][number]} and {name}")
            rows[row][number] = name
    own = {row: frames for row, frames in rows.items() if not _is_flow(row)} or rows
    if not own:
        raise BrokenVideo("no numbered picture in it")
    if len(own) > 1:
        listed = ", ".join(f"{len(frames)} like {min(frames.values())}" for frames in own.values())
        raise BrokenVideo(f"holds several rows of numbered pictures: {listed}")
    (frames,) = own.values()
    numbers = sorted(frames)
    counted = np.array(numbers) - numbers[0]
    return [frames[number] for number in numbers], counted // (math.gcd(*counted.tolist()) or 1)


def _is_flow(row: str) -> bool:
    return _FLOW.fullmatch(os.path.splitext(row)[0]) is not None
