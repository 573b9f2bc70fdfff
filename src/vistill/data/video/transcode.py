"""Re-encoding a video into a form that is quick to train on: small, short GOPs, no B-frames."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from vistill.data.source import Stretch
from vistill.data.video.clips import part_of
from vistill.data.video.frames import FrameFolder, open_video
from vistill.data.video.reader import BrokenVideo, VideoReader
from vistill.files import atomic_writer

Codec = Literal["h264", "hevc", "vp9"]
CLOCK = 60_000
"""Ticks per second of the written times; every encoder can count them."""


class Encoder(NamedTuple):
    """How a codec is written: FFmpeg's name, the container, options besides GOP and quality."""

    name: str
    container: str
    options: dict[str, str]


ENCODERS: dict[Codec, Encoder] = {
    "h264": Encoder("libx264", "mp4", {"preset": "fast", "sc_threshold": "0"}),
    "hevc": Encoder("libx265", "mp4", {"preset": "fast", "x265-params": "log-level=none"}),
    "vp9": Encoder("libvpx-vp9", "webm", {"b": "0", "deadline": "good", "cpu-used": "4"}),
}


@dataclass(frozen=True)
class Recipe:
    """How videos are re-encoded.

    Attributes:
        short_side: pixels of the shorter side; smaller videos keep their size.
        gop: frames from one key frame to the next.
        codec: of the result.
        quality: the encoder's constant rate factor, where less is better.
    """

    short_side: int = 256
    gop: int = 8
    codec: Codec = "h264"
    quality: int = 23

    @property
    def suffix(self) -> str:
        """Ending of the files."""
        return f".{ENCODERS[self.codec].container}"


def transcode(place: str | bytes, out: Path, recipe: Recipe, stretch: Stretch | None = None) -> int:
    """Write a video, or a stretch of it, upright and without sound; the number of its frames.

    The file appears under `out` once it is complete. Frames keep their times.

    Raises:
        BrokenVideo: nothing in it can be decoded or encoded.
    """
    encoder = ENCODERS[recipe.codec]
    with open_video(place) as video:
        scale = min(1.0, recipe.short_side / min(video.width, video.height))
        size = tuple(max(2, round(side * scale / 2) * 2) for side in (video.width, video.height))
        part = None if stretch is None else part_of(video, stretch)
        with (
            atomic_writer(out) as file,
            _blame(),
            av.open(file, "w", format=encoder.container) as container,
        ):
            stream: Any = container.add_stream(encoder.name, rate=_rate(video.fps))
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            stream.options = {
                **encoder.options,
                "crf": str(recipe.quality),
                "g": str(recipe.gop),
                "bf": "0",
                "threads": "1",
            }
            context = stream.codec_context
            context.thread_count, context.time_base = 1, Fraction(1, CLOCK)
            count = _encode(video, container, stream, part)
        if count == 0:
            raise BrokenVideo("no frame can be decoded")
    return count


def _encode(
    video: VideoReader | FrameFolder, container: Any, stream: Any, part: range | None
) -> int:
    scaler, last, count = VideoReformatter(), -1, 0
    for number, frame in video.frames():
        if part is not None and number not in part:
            if number >= part.stop:
                break
            continue
        if video.rotation or video.mirrored:
            pixels = video.upright(frame.to_ndarray(format="rgb24"))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        small = scaler.reformat(
            frame,
            stream.width,
            stream.height,
            stream.pix_fmt,
            interpolation=Interpolation.AREA,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
        if count == 0:
            stream.codec_context.colorspace = small.colorspace
            stream.codec_context.color_range = small.color_range
        last = max(last + 1, round(video.times[number] * CLOCK))
        small.pts, small.time_base = last, Fraction(1, CLOCK)
        small.pict_type = 0  # or the encoder repeats the types of the original
        container.mux(stream.encode(small))
        count += 1
    if count:
        container.mux(stream.encode())
    return count


@contextmanager
def _blame() -> Iterator[None]:
    """Tell a file that cannot be written, which is raised as it is, from a video that cannot be
    encoded."""
    try:
        yield
    except FFmpegError as error:
        # What writing raised comes back as FFmpeg's error, with the cause behind it.
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and not isinstance(cause, FFmpegError):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        raise BrokenVideo(f"cannot be encoded: {error.strerror}") from error


def _rate(fps: float) -> Fraction:
    return Fraction(fps or 1.0).limit_denominator(1001) or Fraction(1)
