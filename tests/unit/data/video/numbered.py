"""Videos whose frames carry their number, in many codecs, containers and shapes."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from torch import Tensor

SIZE, BARS, FRAMES = 64, 8, 40
RATE = 25
VOP = b"\0\0\1\xb6"
X265 = "log-level=none:pools=none:frame-threads=1:keyint=12:bframes="
SVT = {"preset": "12", "svtav1-params": "lp=1"}
CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "H.264": ("libx264", {"bf": "0", "g": "12"}),
    "H.264, B-frames": ("libx264", {"bf": "3", "g": "12"}),
    "H.264, open GOPs": (
        "libx264",
        {"bf": "3", "g": "10", "x264-params": "open-gop=1:b-pyramid=2:scenecut=0"},
    ),
    "H.264, one GOP": ("libx264", {"bf": "3", "g": "250"}),
    "H.264, key frames only": ("libx264", {"g": "1"}),
    "H.264, no key frames": ("libx264", {"bf": "2", "g": "15", "x264-params": "intra-refresh=1"}),
    "H.264, interlaced": ("libx264", {"bf": "2", "g": "12", "x264-params": "tff=1"}),
    "H.265": ("libx265", {"x265-params": f"{X265}0"}),
    "H.265, B-frames": ("libx265", {"x265-params": f"{X265}3:open-gop=0"}),
    "H.265, open GOPs": ("libx265", {"x265-params": f"{X265}3:open-gop=1:min-keyint=12"}),
    "MPEG-4": ("mpeg4", {"bf": "0", "g": "12", "qscale": "2"}),
    "MPEG-4, B-frames": ("mpeg4", {"bf": "2", "g": "12", "qscale": "2"}),
    "MPEG-2": ("mpeg2video", {"bf": "0", "g": "12", "qscale": "2"}),
    "MPEG-2, B-frames": ("mpeg2video", {"bf": "2", "g": "12", "qscale": "2"}),
    "MPEG-2, closed GOPs": (
        "mpeg2video",
        {"bf": "2", "g": "12", "qscale": "2", "flags": "+cgop", "sc_threshold": "1000000000"},
    ),
    "MPEG-1, B-frames": ("mpeg1video", {"bf": "2", "g": "12", "qscale": "2"}),
    "VP8": ("libvpx", {"g": "12", "deadline": "realtime", "cpu-used": "8"}),
    "VP9": ("libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8"}),
    "AV1": ("libsvtav1", {"g": "24", **SVT}),
    "Motion JPEG": ("mjpeg", {"pixels": "yuvj420p", "qscale": "2"}),
    "WMV 2": ("wmv2", {"g": "12", "qscale": "2"}),
    "MS MPEG-4": ("msmpeg4", {"g": "12", "qscale": "2"}),
    "Sorenson": ("flv", {"g": "12", "qscale": "2"}),
    "H.263": ("h263", {"g": "12", "qscale": "2", "side": "128x96"}),
    "RealVideo": ("rv20", {"g": "12", "qscale": "2", "side": "128x96"}),
    "ProRes": ("prores", {"pixels": "yuv422p10le"}),
    "FFV1": ("ffv1", {"g": "12"}),
    "GIF": ("gif", {"pixels": "rgb8"}),
}
CONTAINERS = {
    ".mp4": "mp4",
    ".mov": "mov",
    ".3gp": "3gp",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".wmv": "asf",
    ".ts": "mpegts",
    ".mpg": "mpeg",
    ".vob": "vob",
    ".flv": "flv",
    ".ogv": "ogg",
    ".mxf": "mxf",
    ".rm": "rm",
    ".gif": "gif",
}


def numbered(number: int, width: int = SIZE, height: int = SIZE) -> np.ndarray:
    """A frame whose eight bars are the bits of its number, over a drifting gradient."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[height // 2 :] = (np.arange(width) * 3 + number * 5)[None, :, None] % 200
    for bar in range(BARS):
        span = slice(bar * width // BARS, (bar + 1) * width // BARS)
        frame[: height // 2, span] = 235 if number >> bar & 1 else 20
    return frame


def number_of(frame: np.ndarray) -> int:
    """The number on a frame `[h, w, 3]`."""
    bars = frame[: frame.shape[0] // 2].mean(axis=(0, 2)).reshape(BARS, -1).mean(axis=1)
    return sum(1 << bar for bar in range(BARS) if bars[bar] > 128)


def numbers_of(clip: Tensor) -> list[int]:
    """The numbers on the frames of what the reader gave."""
    return [number_of(frame) for frame in clip.permute(1, 2, 3, 0).numpy()]


def write(
    path: Path | BytesIO,
    codec: str,
    *,
    frames: int = FRAMES,
    times: Sequence[int] | None = None,
    pixels: str = "yuv420p",
    form: str | None = None,
    rotation: int | None = None,
    side: str = f"{SIZE}x{SIZE}",
    skip: int = 0,
    **options: str,
) -> Path | BytesIO:
    """Encode frames 0, 1, 2 and so on with an encoder of FFmpeg and its options; the first packets
    can be left out, as of a recording that begins anywhere."""
    width, height = map(int, side.split("x"))
    with av.open(path if form else str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=RATE, options={"threads": "1"} | options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        if rotation is not None:
            stream.set_display_rotation(rotation)
        stream.codec_context.time_base = Fraction(1, RATE)
        encoded: list[av.Packet] = []
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered(number, width, height), format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, RATE)
            encoded += stream.encode(frame)
        encoded += stream.encode()
        container.mux(encoded[skip:])
    return path


def make(folder: Path, codec: str, suffix: str, skip: int = 0) -> Path | None:
    """A file of `CODECS` in a container of `CONTAINERS`; None where FFmpeg refuses the pair."""
    encoder, options = CODECS[codec]
    path = folder / f"{codec}{suffix}"
    try:
        with open(path, "wb") as file:
            write(file, encoder, form=CONTAINERS[suffix], skip=skip, **options)
    except (av.error.FFmpegError, ValueError):
        return None
    return path


def unreadable(codec: str, suffix: str) -> bool:
    """Whether FFmpeg writes the pair, but reads other frames from it than it wrote."""
    return codec == "H.263" and suffix in (".mpg", ".vob")


def accesses(n: int) -> list[list[int]]:
    """Dense, segments, sparse, backwards and single frames."""
    rng = np.random.default_rng(n)
    segments = (np.arange(8) * n // 8 + rng.integers(0, max(1, n // 8), 8)).clip(0, n - 1)
    dense = list(range(n // 3, min(n, n // 3 + 16)))
    far = rng.integers(0, n, 6)
    return [dense, segments.tolist(), list(range(0, n, 7)), list(range(n - 1, -1, -3)),
            *([int(one)] for one in (n - 1, 0, *far))]  # fmt: skip


def packets(path: Path) -> Iterator[av.Packet]:
    """Of the video of a file."""
    with av.open(str(path)) as container:
        yield from (packet for packet in container.demux(container.streams.video[0]) if packet.size)


def remux(source: Path, out: Path, *, made_up: bool = False, data: Sequence[bytes] = ()) -> Path:
    """Copy the packets of a video without decoding them.

    Args:
        source: the video.
        out: the copy.
        made_up: the n-th packet is shown as the n-th, as copies from AVI are.
        data: bytes of the packets instead of the video's own; they are shown as with `made_up`.
    """
    own = [(bytes(one), one.pts, one.dts, one.is_keyframe) for one in packets(source)]
    if data:
        own = [(content, None, None, content[content.find(VOP) + 4] < 64) for content in data]
    with av.open(str(source)) as old, av.open(str(out), "w") as new:
        template = old.streams.video[0]
        stream = new.add_stream_from_template(template)
        tick = Fraction(1, RATE) / template.time_base
        for number, (content, pts, dts, key) in enumerate(own):
            packet = av.Packet(content)
            packet.pts, packet.dts, packet.time_base = pts, dts, template.time_base
            if made_up or data:
                packet.pts = packet.dts = round(number * tick)
                packet.duration = round(tick)
            packet.is_keyframe, packet.stream = key, stream
            new.mux(packet)
    return out


def pack(path: Path, *, repeat: bool) -> list[bytes]:
    """Packets of an MPEG-4 video with B-frames as Xvid writes them into AVI: of a reference picture
    and the B-pictures that follow, the first two share a packet and the last is empty. The first
    packet says so; with `repeat` that of every key frame."""
    empty = VOP + b"\x50\x7f"
    packed: list[bytes] = []
    waiting: list[bytes] = []
    for packet in packets(path):
        content = bytes(packet)
        if content[content.find(VOP) + 4] >> 6 == 2:
            waiting.append(content)
            continue
        if len(waiting) > 1:
            packed += [waiting[0] + waiting[1], *waiting[2:], empty]
        else:
            packed += waiting
        waiting = [content]
    packed += [waiting[0] + waiting[1], *waiting[2:], empty] if len(waiting) > 1 else waiting
    told = b"\0\0\1\xb2DivX503b1393p"
    for number, content in enumerate(packed):
        place = content.find(VOP)
        if number == 0 or (repeat and content[place + 4] < 64):
            packed[number] = content[:place] + told + content[place:]
    return packed
