#!/usr/bin/env bash
# PyAV 18.1.0 (libavformat 62.12.102): of valid H.264 with B-frames in AVI and in ASF, the times of decoded frames are
# not in the order of the frames, though no error is raised and every packet has a time. Frames that are sorted or
# looked up by time are therefore others than the ones of that number. A copy into Matroska without decoding keeps these
# times. Decoding from the start gives the right order in all of them; MP4 and Matroska from the encoder are right.
# Exits with another code than 0 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "av==18.1.0" "numpy==2.4.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from fractions import Fraction

import av
import numpy as np

COUNT = 48


def write(name, form):
    with av.open(name, "w", format=form) as out:
        stream = out.add_stream("libx264", rate=25, options={"bf": "3", "g": "12", "threads": "1"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for number in range(COUNT):
            bits = [235 if number >> bit & 1 else 20 for bit in range(8)]
            pixels = np.repeat(np.array(bits, np.uint8), 8)[None, :, None].repeat(64, 0).repeat(3, 2)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def copy(source, name):
    with av.open(source) as old, av.open(name, "w", format="matroska") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)


def number_of(frame):
    bars = frame.to_ndarray(format="rgb24").mean(axis=(0, 2)).reshape(8, 8).mean(axis=1)
    return sum(1 << bit for bit in range(8) if bars[bit] > 128)


def wrong(name):
    """Frames that are out of their place once they are sorted by time."""
    with av.open(name) as container:
        frames = [(frame.pts, number_of(frame)) for frame in container.decode(video=0)]
    assert [number for _, number in frames] == list(range(COUNT)), name
    assert all(time is not None for time, _ in frames), name
    found = [number for _, number in sorted(frames)]
    count = sum(a != b for a, b in zip(found, range(COUNT)))
    print(f"  {name}: decoded in order, {count} of {COUNT} out of place by their times")
    return count


print(f"PyAV {av.__version__}, libavformat {av.library_versions['libavformat']}")
for name, form in (("a.mp4", "mp4"), ("a.mkv", "matroska"), ("a.avi", "avi"), ("a.wmv", "asf")):
    write(name, form)
copy("a.avi", "copied.mkv")
assert wrong("a.mp4") == wrong("a.mkv") == 0
assert min(wrong("a.avi"), wrong("a.wmv"), wrong("copied.mkv")) > 20
PY
