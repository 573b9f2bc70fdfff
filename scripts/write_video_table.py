"""Write the table of containers and codecs in docs/data.md, by trying them.

    python scripts/write_video_table.py

Every pair that FFmpeg writes is made with numbered frames, which are then read dense, in segments,
sparse, backwards and singly, and have to be the frames asked for.
"""

import sys
import tempfile
from pathlib import Path

import av

from vistill.data.video.file import BrokenVideo, VideoFile
from vistill.data.video.reader import VideoReader

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "unit" / "data" / "video"))

from numbered import (  # noqa: E402
    CODECS,
    CONTAINERS,
    FRAMES,
    accesses,
    make,
    numbers_of,
    packets,
    unreadable,
)

PAGE = ROOT / "docs" / "data.md"
BEGIN, END = "<!-- scripts/write_video_table.py -->\n", "<!-- end of the table -->\n"


def way(path: Path) -> str:
    """How the frames of a file are reached, all of them being the ones asked for."""
    try:
        file = VideoFile(str(path))
        told = file.told_order() is not None
        file.close()
        with VideoReader(str(path)) as video:
            assert video.num_frames == FRAMES, path
            for wanted in accesses(FRAMES):
                assert numbers_of(video.read(wanted)) == wanted, (path, wanted)
            video.check()
            keys = sum(packet.is_keyframe for packet in packets(path))
            proven = keys if video.proof is None else len(video.proof.entries)
    except BrokenVideo:
        return "no"
    return ("key" if proven >= min(2, keys) else "start") + ("" if told else "\\*")


def versions() -> str:
    """Of what was tried."""
    avcodec, avformat = (
        ".".join(map(str, av.library_versions[name])) for name in ("libavcodec", "libavformat")
    )
    return f"PyAV {av.__version__}, libavcodec {avcodec}, libavformat {avformat}"


def table() -> str:
    """Markdown: codecs in rows, containers in columns."""
    lines = [f"| | {' | '.join(CONTAINERS)} |", "|---" * (len(CONTAINERS) + 1) + "|"]
    with tempfile.TemporaryDirectory() as folder:
        for codec in CODECS:
            cells = []
            for suffix in CONTAINERS:
                path = make(Path(folder), codec, suffix)
                garbled = path is not None and unreadable(codec, suffix)
                cells.append("" if path is None or garbled else way(path))
            lines.append(f"| {codec} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def block() -> str:
    """The table and how to read it."""
    return (
        f"{BEGIN}Tried with {versions()}. Every frame asked for is\n"
        "the frame of that number. `key`: reached from key frames; `start`: from the start of the\n"
        "file; `*`: after one full decode, which `vistill prepare` keeps; `no`: FFmpeg writes the\n"
        "pair but finds no video in it, and so it is told; empty: FFmpeg does not write the pair,\n"
        f"or reads other frames than it wrote.\n\n{table()}{END}"
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(__doc__)
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + block() + rest.split(END)[1], encoding="utf-8")
