"""Every frame asked for is the frame of that number, whatever codec, container and order."""

import runpy
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from numbered import (
    CODECS,
    CONTAINERS,
    FRAMES,
    accesses,
    make,
    number_of,
    numbers_of,
    pack,
    packets,
    remux,
    unreadable,
    write,
)

from vistill.data.video.inspect import inspect
from vistill.data.video.proof import Proof
from vistill.data.video.reader import BrokenVideo, VideoReader

ROOT = Path(__file__).parents[4]
COMMON = [
    ("H.264, B-frames", ".mp4"),
    ("H.264, B-frames", ".mkv"),
    ("H.264, B-frames", ".avi"),
    ("H.264, B-frames", ".wmv"),
    ("H.264, B-frames", ".ts"),
    ("H.264, B-frames", ".mpg"),
    ("H.264, open GOPs", ".avi"),
    ("H.264, no key frames", ".mp4"),
    ("H.264, interlaced", ".ts"),
    ("H.265, open GOPs", ".mkv"),
    ("H.265, B-frames", ".ts"),
    ("MPEG-4, B-frames", ".avi"),
    ("MPEG-4, B-frames", ".ts"),
    ("MPEG-2, B-frames", ".vob"),
    ("MPEG-2", ".mpg"),
    ("MPEG-1, B-frames", ".wmv"),
    ("H.263", ".avi"),
    ("VP9", ".webm"),
    ("WMV 2", ".wmv"),
]


def plainly(path: Path) -> list[int] | None:
    """Numbers as PyAV decodes them from the start; None where it sees no video."""
    with av.open(str(path)) as container:
        if not container.streams.video or container.streams.video[0].codec_context is None:
            return None
        try:
            frames = container.decode(video=0)
            return [number_of(frame.to_ndarray(format="rgb24")) for frame in frames]
        except av.error.FFmpegError:
            return []


def assert_exact(path: Path, first: int = 0, count: int = FRAMES, proof: Proof | None = None):
    """Number `i` of the reader is the frame that carries `first + i`."""
    with VideoReader(str(path), proof) as video:
        assert video.num_frames == len(video.times) == count
        assert (np.diff(video.times) > 0).all()
        for wanted in accesses(count):
            assert numbers_of(video.read(wanted)) == [first + number for number in wanted], wanted
    with VideoReader(path.read_bytes(), proof) as video:
        wanted = [count * 2 // 3]
        assert numbers_of(video.read(wanted)) == [first + wanted[0]]


@pytest.mark.parametrize(("codec", "suffix"), COMMON)
def test_common_files(tmp_path, codec, suffix):
    path = make(tmp_path, codec, suffix)
    assert_exact(path)
    facts = inspect(str(path))
    assert (facts.frames, facts.corrupt, facts.problem) == (FRAMES, 0, None)
    if facts.proof is not None:
        assert_exact(path, proof=Proof.of(facts.proof))


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_in_every_container(tmp_path, codec):
    exact = 0
    for suffix in CONTAINERS:
        path = make(tmp_path, codec, suffix)
        truth = None if path is None else plainly(path)
        if truth not in (None, list(range(FRAMES))):
            # x265 writes other bytes every time, and FFmpeg loses a few of them in program streams.
            path = make(tmp_path, codec, suffix)
            truth = None if path is None else plainly(path)
        if truth is None:
            if path is not None:
                with pytest.raises(BrokenVideo, match="no video in it"):
                    VideoReader(str(path))
        elif truth == list(range(FRAMES)):
            assert_exact(path)
            exact += 1
        else:  # FFmpeg writes what it cannot read
            assert unreadable(codec, suffix)
    assert exact >= 1


@pytest.mark.slow
def test_the_table_in_the_docs_is_what_happens():
    script = runpy.run_path(str(ROOT / "scripts" / "write_video_table.py"))
    written = script["PAGE"].read_text(encoding="utf-8")
    if script["versions"]() in written:  # other versions of FFmpeg may do otherwise
        assert script["block"]() in written, "run: python scripts/write_video_table.py"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("codec", ["H.264, B-frames", "MPEG-4, B-frames", "MPEG-2, B-frames"])
def test_copies_with_times_that_were_made_up(tmp_path, codec, suffix):
    path = make(tmp_path, codec, ".ts" if "264" in codec else ".avi")
    assert_exact(remux(path, tmp_path / f"copy{suffix}", made_up=True))


@pytest.mark.parametrize("repeat", [True, False])
@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv"])
def test_packed_pictures_of_mpeg4(tmp_path, suffix, repeat):
    source = make(tmp_path, "MPEG-4, B-frames", ".avi")
    path = remux(source, tmp_path / f"packed{suffix}", data=pack(source, repeat=repeat))
    assert_exact(path)
    with VideoReader(str(path)) as video:
        assert (len(video._keys) > 2) == repeat
    cut = remux(source, tmp_path / f"cut{suffix}", data=pack(source, repeat=repeat)[:29])
    truth = plainly(cut)
    with VideoReader(str(cut)) as video:  # the last packet holds two, of which one is never shown
        assert video.proof is None
        assert numbers_of(video.read(range(video.num_frames))) == truth
        assert numbers_of(video.read([28, 3])) == [truth[28], truth[3]]


CUT = {
    "H.264": 12, "H.264, B-frames": 12, "H.264, open GOPs": 10, "H.265, B-frames": 12,
    "H.265, open GOPs": 12, "MPEG-4": 12, "MPEG-4, B-frames": 12, "MPEG-2, B-frames": 12,
    "MPEG-1, B-frames": 12, "VP8": 12, "VP9": 12, "AV1": 24,
}  # fmt: skip


@pytest.mark.parametrize("codec", CUT)
def test_recordings_that_begin_between_key_frames(tmp_path, codec):
    whole = make(tmp_path, codec, ".mkv")
    keys = [place for place, packet in enumerate(packets(whole)) if packet.is_keyframe]
    for skip in (5, keys[1]):
        path = make(tmp_path, codec, ".mkv", skip)
        assert_exact(path, CUT[codec], FRAMES - CUT[codec])
        facts = inspect(str(path))
        assert (facts.frames, facts.corrupt, facts.problem) == (FRAMES - CUT[codec], 0, None)


@pytest.mark.parametrize("skip", [5, 15])
def test_recordings_that_are_refreshed_bit_by_bit(tmp_path, skip):
    assert_exact(make(tmp_path, "H.264, no key frames", ".mkv", skip), 21, FRAMES - 21)


def test_pictures_that_are_never_shown(tmp_path):
    source = make(tmp_path, "VP8", ".webm")
    hidden = [bytes(packet) for packet in packets(source)]
    hidden[5] = bytes([hidden[5][0] & ~0x10]) + hidden[5][1:]
    path = tmp_path / "hidden.mkv"
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.update(hidden.pop(0))
                packet.stream = stream
                new.mux(packet)
    with VideoReader(str(path)) as video:
        assert video.num_frames == FRAMES - 1
        shown = [*range(5), *range(6, FRAMES)]
        assert numbers_of(video.read(range(FRAMES - 1))) == shown
        assert numbers_of(video.read([30, 4])) == [31, 4]


def test_times_that_lie_are_noticed_while_reading(tmp_path):
    """The first half has its own times, the second made-up ones: seen when it is decoded."""
    source = make(tmp_path, "H.264, B-frames", ".mkv")
    path = tmp_path / "half.mkv"
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(p for p in old.demux(video=0) if p.size):
            if number >= 24:
                packet.pts = number * 40
            packet.stream = stream
            new.mux(packet)
    with VideoReader(str(path)) as video:
        assert numbers_of(video.read(range(FRAMES))) == list(range(FRAMES))
    assert_exact(path)
    assert inspect(str(path)).proof is not None


def test_a_proof_spares_another_one(tmp_path, monkeypatch):
    path = make(tmp_path, "H.264, B-frames", ".avi")
    proof = Proof.of(inspect(str(path)).proof)
    assert len(proof.entries) > 1
    other = write(tmp_path / "other.avi", "libx264", bf="3", g="12", frames=30)

    def refuse(self):
        raise AssertionError("decoded in full")

    monkeypatch.setattr("vistill.data.video.reader._proofs", {})
    monkeypatch.setattr(VideoReader, "_prove", refuse)
    assert_exact(path, proof=proof)
    with pytest.raises(AssertionError, match="in full"):  # the file was replaced
        VideoReader(str(other), proof)


def test_a_full_decode_is_done_once_a_process(tmp_path, monkeypatch):
    path = make(tmp_path, "H.264, B-frames", ".avi")
    proved = []
    honest = VideoReader._prove
    monkeypatch.setattr(VideoReader, "_prove", lambda self: [proved.append(1), honest(self)][1])
    for wanted in ([30], [3], [17, 18]):
        with VideoReader(str(path)) as video:
            assert numbers_of(video.read(wanted)) == wanted
    assert len(proved) <= 1


def test_a_cover_picture_is_no_clip(tmp_path):
    def cover(container: av.container.OutputContainer) -> tuple:
        picture = container.add_stream("mjpeg", rate=25)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        return picture, av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")

    clip = write(BytesIO(), "libx264", form="matroska", frames=5).getvalue()
    path = tmp_path / "covered.mp4"
    with av.open(BytesIO(clip)) as old, av.open(str(path), "w") as new:
        picture, image = cover(new)
        stream = new.add_stream_from_template(old.streams.video[0])
        new.mux(picture.encode(image))
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    with VideoReader(str(path)) as video:
        assert numbers_of(video.read(range(video.num_frames))) == list(range(5))
    song = tmp_path / "song.mp4"
    with av.open(str(song), "w") as new:
        sound = new.add_stream("aac", rate=8000)
        picture, image = cover(new)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        samples.sample_rate = 8000
        new.mux(sound.encode(samples))
        new.mux(sound.encode())
        new.mux(picture.encode(image))
    with pytest.raises(BrokenVideo, match="only a cover picture and audio"):
        VideoReader(str(song))
