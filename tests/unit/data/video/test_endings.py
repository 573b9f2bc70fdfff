"""Files of every ending that counts as a video can be read."""

from pathlib import Path

import av
import numpy as np
import pytest

from vistill.data.source import CLIPS
from vistill.data.video.reader import VideoReader

MUXERS = {
    "mp4": ("mpeg4", ".mp4 .m4v"),
    "mov": ("mpeg4", ".mov .qt"),
    "f4v": ("libx264", ".f4v"),
    "3gp": ("mpeg4", ".3gp .3g2"),
    "matroska": ("mpeg4", ".mkv"),
    "webm": ("libvpx", ".webm"),
    "avi": ("mpeg4", ".avi .divx"),
    "mpeg": ("mpeg1video", ".mpg .mpeg .mpe .mod"),
    "vob": ("mpeg2video", ".vob .m2p"),
    "mpegts": ("mpeg2video", ".ts .mts .m2t .m2ts .tod"),
    "mxf": ("mpeg2video", ".mxf"),
    "asf": ("wmv2", ".wmv .asf"),
    "flv": ("flv1", ".flv"),
    "ogg": ("libvpx", ".ogv .ogm"),
    "rm": ("rv20", ".rm .rmvb"),
    "dv": ("dvvideo", ".dv"),
    "gif": ("gif", ".gif"),
}
ENDINGS = [(muxer, e) for muxer, (_, endings) in MUXERS.items() for e in endings.split()]
SIZES = {"dv": (720, 576)}


def video(path: Path, muxer: str) -> None:
    """Five frames, each brighter than the one before."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", format=muxer) as out:
        stream = out.add_stream(MUXERS[muxer][0], rate=25)
        stream.width, stream.height = SIZES.get(muxer, (176, 144))
        stream.pix_fmt = "rgb8" if muxer == "gif" else "yuv420p"
        for grey in range(5):
            noise = rng.integers(-9, 10, (stream.height, stream.width, 1))  # or it is too short
            pixels = (50 * grey + 20 + noise).repeat(3, axis=2).astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode())


@pytest.mark.parametrize(("muxer", "ending"), ENDINGS)
def test_the_ending_is_read(muxer: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip{ending.upper()}"
    video(path, muxer)
    assert CLIPS.holds(path.name)
    with VideoReader(str(path)) as reader:
        assert reader.num_frames == 5
        grey = reader.read(np.arange(5)).float().mean(dim=(0, 2, 3))
    assert (grey - (50 * np.arange(5) + 20)).abs().max() < 25


def test_no_ending_is_left_out() -> None:
    assert {ending for _, ending in ENDINGS} == CLIPS.suffixes
