"""Long videos cut into spans of one length."""

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from vistill.data.source import Source, Stretch
from vistill.data.video.clips import ClipDecoder
from vistill.data.video.frames import RATE, FrameFolder, open_video
from vistill.data.video.reader import VideoReader


def windows(length: float, window: float, stride: float) -> list[tuple[float, float]]:
    """Spans `(start, end)` of `length`: one every `stride`, the last at the very end.

    All of them are `window` long, and what is shorter is one span.
    """
    if length <= window:
        return [(0.0, length)]
    # What lacks a thousandth of a span is rounding.
    count = int((length - window) / stride + 1e-3)
    starts = [k * stride for k in range(count + 1)]
    if length - window - starts[-1] > 1e-3 * window:
        starts.append(length - window)
    return [(start, start + window) for start in starts]


class KeptOpen:
    """Decodes parts of videos of which several follow each other: the last video stays open, so
    that its packets are looked through once instead of once a part.

    Args:
        decoder: of one part.
    """

    def __init__(self, decoder: ClipDecoder) -> None:
        self._decoder = decoder
        self._open: tuple[str, VideoReader | FrameFolder] | None = None

    def __reduce__(self) -> tuple[type["KeptOpen"], tuple[ClipDecoder]]:
        return KeptOpen, (self._decoder,)

    def __call__(
        self, source: Source, sample: int, rng: np.random.Generator
    ) -> UInt8[Tensor, "3 t h w"]:
        place = source.place(sample)
        if not isinstance(place, str):
            return self._decoder(source, sample, rng)
        try:
            if self._open is None or self._open[0] != place:
                self.close()
                self._open = place, open_video(place, source.proof(sample))
            return self._decoder.read(self._open[1], source.span(sample), rng)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the last video back."""
        if self._open is not None:
            self._open[1].close()
        self._open = None


def windows_of(source: Source, sample: int, window: float, stride: float) -> list[Stretch]:
    """The spans of a video; of a folder of frames by their numbers, at 25 frames per second.

    Args:
        source: of videos.
        sample: which of them.
        window, stride: seconds.

    Raises:
        BrokenImage: it cannot be read.
    """
    with open_video(source.place(sample), source.proof(sample)) as video:
        if isinstance(video, FrameFolder):
            cut = windows(video.num_frames, round(window * RATE), round(stride * RATE))
            return [Stretch(start, end, "frames") for start, end in cut]
        length = float(video.times[-1]) + (1 / video.fps if video.fps else 0.0)
        cut = windows(length, window, stride)
        return [Stretch(round(start, 3), round(end, 3)) for start, end in cut]
