"""From a video of a source to the frames of a clip, and the first look at a source of videos."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor

from vistill.data.broken import BrokenImage
from vistill.data.source import Source, Stretch
from vistill.data.video.frames import FrameFolder, open_video
from vistill.data.video.reader import BrokenVideo, VideoReader
from vistill.data.video.sampling import Sampling, clip_views, span, training_clip
from vistill.errors import UserError

TRIED = 8
"""Videos of which one frame is decoded before the work."""
MEASURED = 512
"""Videos whose length is looked up where those were all too short."""


@dataclass(frozen=True)
class ClipDecoder:
    """The frames of one random clip of a video, or those of all its test clips.

    Args:
        frames: of a clip.
        stride: frames of the video per frame of the clip, for `dense` and `stretched`.
        sampling: which frames, see `vistill.data.video.sampling`.
        views: None draws a random clip; a number gives so many test clips, one after the other.
    """

    frames: int
    stride: int
    sampling: Sampling
    views: int | None = None

    def __call__(
        self, source: Source, sample: int, rng: np.random.Generator
    ) -> UInt8[Tensor, "3 t h w"]:
        with open_video(source.place(sample), source.proof(sample)) as video:
            return self.read(video, source.span(sample), rng)

    def read(
        self, video: VideoReader | FrameFolder, span: Stretch | None, rng: np.random.Generator
    ) -> UInt8[Tensor, "3 t h w"]:
        """The same of a part of an open video; None: of all of it."""
        part = part_of(video, span)
        return video.read(part.start + self._choose(len(part), rng))

    def _choose(self, n: int, rng: np.random.Generator) -> Int[np.ndarray, " t"]:
        if self.views is None:
            return training_clip(n, self.frames, self.stride, self.sampling, rng)
        return clip_views(n, self.frames, self.stride, self.sampling, self.views).ravel()


def part_of(video: VideoReader | FrameFolder, stretch: Stretch | None) -> range:
    """Numbers of the frames that a sample may use.

    Raises:
        BrokenVideo: the video is over before its part begins.
    """
    n = video.num_frames
    if stretch is None:
        return range(n)
    if stretch.unit == "frames":
        if stretch.start >= n:
            raise BrokenVideo(f"has {n} frames, and its part is {stretch}")
        return range(int(stretch.start), min(int(stretch.end), n))
    part = video.between(stretch.start, stretch.end)
    over = float(video.times[-1]) + (1 / video.fps if video.fps else 0.0)
    if stretch.start >= over and stretch.start > 0:
        raise BrokenVideo(f"is over after {over:.3g} s, and its part is {stretch}")
    return part


def require_clips(source: Source, decoder: ClipDecoder, section: str = "data.") -> None:
    """Look at videos from all over the source, until one can be read and one is long enough.

    Args:
        source: of videos.
        decoder: says what a clip is.
        section: of the settings that did, for the error.

    Raises:
        UserError: none of them can be read, or all are shorter than a clip.
    """
    needed = span(decoder.frames, decoder.stride, decoder.sampling)
    told, longest = [], 0
    few, many = ({n * len(source) // most for n in range(most)} for most in (TRIED, MEASURED))
    for i in [*sorted(few), *sorted(many - few)]:
        try:
            with open_video(source.place(i), source.proof(i)) as video:
                if i in few:
                    video.read([0])
                longest = max(longest, len(part_of(video, source.span(i))))
        except BrokenImage as error:
            told.append(f"{source.sample_name(i)} ({error})")
        if longest >= needed:
            return
        if len(told) == len(few) and longest == 0:
            raise UserError(
                f"none of {len(told)} clips tried in '{source.name}' can be read: {', '.join(told)}"
            )
    by = f" with {section}stride={decoder.stride}" if needed > decoder.frames else ""
    raise UserError(
        f"{section}frames={decoder.frames}{by} needs {needed} frames, and the longest of the clips "
        f"looked at in '{source.name}' has {longest}; lower {'them' if by else 'it'}"
    )
