"""All eight ways to hold a camera: as read, and as `prepare` re-encodes it."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vistill.data.video.reader import VideoReader
from vistill.data.video.transcode import Recipe, transcode

WIDTH, HEIGHT, ONE = 96, 64, 1 << 16
SIGNS = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
MATRICES = [*((x, 0, 0, y) for x, y in SIGNS), *((0, x, y, 0) for x, y in SIGNS)]


def picture() -> np.ndarray:
    """Four corners of four colours, so that no two orientations look alike."""
    frame = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    frame[:32, :32] = 255, 0, 0
    frame[:32, 64:] = 0, 255, 0
    frame[32:, :32] = 0, 0, 255
    return frame


def shown(frame: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """By the definition: the pixel at x, y is shown at ax + cy, bx + dy (ISO 14496-12 6.2.2)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    right, down = a * x + c * y, b * x + d * y
    right, down = right - right.min(), down - down.min()
    out = np.zeros((down.max() + 1, right.max() + 1, 3), np.uint8)
    out[down, right] = frame
    return out


def record(path: Path, matrix: tuple[int, int, int, int]) -> None:
    a, b, c, d = (ONE * one for one in matrix)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"threads": "1", "crf": "5"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(picture(), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_a_recording_is_shown_as_it_was_held(tmp_path, matrix, suffix):
    record(tmp_path / f"held{suffix}", matrix)
    expected = shown(picture(), *matrix).astype(int)
    transcode(str(tmp_path / f"held{suffix}"), tmp_path / "upright.mp4", Recipe(quality=5))
    for name in (f"held{suffix}", "upright.mp4"):
        with VideoReader(str(tmp_path / name)) as video:
            assert (video.height, video.width) == expected.shape[:2]
            clip = video.read([0, 2]).permute(1, 2, 3, 0)
        assert clip.is_contiguous()
        for frame in clip.numpy():
            assert np.abs(frame - expected).mean() < 8
    with VideoReader(str(tmp_path / "upright.mp4")) as video:
        assert (video.rotation, video.mirrored) == (0, False)
