"""The reader against frames that carry their own number, and against a full sequential decode."""

import io
import json
import os
import resource
import wave
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from numbered import SIZE, numbers_of, write

from vistill.data.video.reader import BrokenVideo, VideoReader

VIDEOS = Path(__file__).parents[3] / "data" / "videos"
LUMA = json.loads((VIDEOS / "luma.json").read_text())


X265 = {"x265-params": "log-level=none:bframes=3:keyint=12:pools=none:frame-threads=1"}
KINDS = {
    "b_frames.mp4": ("libx264", {"bf": "3", "g": "12"}),
    "open_gop.mkv": ("libx264", {"bf": "3", "g": "10", "x264-params": "open-gop=1:b-pyramid=2"}),
    "transport.ts": ("libx264", {"bf": "2", "g": "15"}),
    "all_intra.mov": ("libx264", {"g": "1"}),
    "mpeg4_b_frames.avi": ("mpeg4", {"bf": "2", "g": "12", "qscale": "2"}),
    "mpeg4.mp4": ("mpeg4", {"bf": "2", "g": "12"}),
    "hevc_10_bit.mp4": ("libx265", {"pixels": "yuv420p10le", **X265}),
    "vp9.webm": ("libvpx-vp9", {"g": "12", "cpu-used": "8", "deadline": "realtime"}),
    "motion_jpeg.avi": ("mjpeg", {"pixels": "yuvj420p"}),
    "program.mpg": ("mpeg1video", {"g": "12", "bf": "2"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_is_the_one_asked_for(tmp_path, name):
    codec, options = KINDS[name]
    path = write(tmp_path / name, codec, **options)
    with VideoReader(str(path)) as video:
        assert video.num_frames == 40
        assert (video.width, video.height, video.rotation) == (SIZE, SIZE, 0)
        assert video.fps == pytest.approx(25, rel=0.02)
        rng = np.random.default_rng(0)
        for wanted in ([39], [0], [13, 12, 13], rng.integers(0, 40, 6), np.arange(3, 40, 4)):
            clip = video.read(wanted)
            assert clip.shape == (3, len(wanted), SIZE, SIZE)
            assert clip.permute(1, 2, 3, 0).is_contiguous()
            assert numbers_of(clip) == list(wanted)


def test_variable_frame_rate(tmp_path):
    times = np.cumsum([1, 3, 1, 9] * 10).tolist()
    path = write(tmp_path / "vfr.mkv", "libx264", times=times, bf="2", g="8")
    with VideoReader(str(path)) as video:
        assert video.num_frames == 40
        assert video.times[-1] == pytest.approx((times[-1] - times[0]) / 25, abs=0.01)
        assert numbers_of(video.read([5, 31])) == [5, 31]
        part = video.between(0.15, 0.6)
        assert list(part) == [n for n in range(40) if 0.15 <= (times[n] - times[0]) / 25 < 0.6]
        assert list(video.between(1e3, 2e3)) == [39]


def sequential(path: Path) -> tuple[list[np.ndarray], list[int], int]:
    """All frames as FFmpeg shows them, with the CRC of their first plane, and the turn."""
    frames, luma, turn = [], [], 0
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            try:
                decoded = packet.decode()
            except av.error.InvalidDataError:
                continue
            for frame in decoded:
                plane = np.frombuffer(frame.planes[0], np.uint8)
                rows = plane.reshape(-1, frame.planes[0].line_size)
                wide = 2 if "10" in frame.format.name else 1
                luma.append(zlib.crc32(rows[:, : frame.planes[0].width * wide].tobytes()))
                frames.append(frame.to_ndarray(format="rgb24"))
                turn = frame.rotation
    return frames, luma, turn


@pytest.mark.parametrize("name", [name for name in LUMA if "corrupted" not in name])
def test_real_files_frame_by_frame(name):
    frames, luma, turn = sequential(VIDEOS / name)
    assert luma == LUMA[name]
    rng = np.random.default_rng(0)
    with VideoReader((VIDEOS / name).read_bytes()) as video:
        assert video.num_frames == len(frames)
        for wanted in (rng.integers(0, len(frames), 5), [len(frames) - 1], [0]):
            found = video.read(wanted).permute(1, 2, 3, 0).numpy()
            for frame, number in zip(found, wanted, strict=True):
                assert np.array_equal(frame, np.rot90(frames[number], turn // 90 % 4))
        assert (video.height, video.width) == found.shape[1:3]


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_rotated_recordings_are_set_upright(turn):
    with VideoReader(str(VIDEOS / f"decord_video_{turn}.mov")) as video:
        assert (video.width > video.height) == (turn % 180 == 0)


def test_a_damaged_frame_repeats_its_neighbour_and_is_counted():
    path = str(VIDEOS / "decord_corrupted.mp4")
    with VideoReader(path) as video:
        n = video.num_frames
        clip = video.read(np.arange(n))
        assert clip.shape[1] == n
        assert video.corrupt > 0
        lost = n - len(LUMA["decord_corrupted.mp4"])
        assert lost == 1


def test_one_frame(tmp_path):
    with VideoReader(str(write(tmp_path / "one.mp4", "libx264", frames=1))) as video:
        assert video.read([0, 0, 0]).shape == (3, 3, SIZE, SIZE)


def audio() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(8000))
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"this is no video\n", "damaged or no video"),
        (audio(), "no video in it, only audio"),
        (bytes(5000), "damaged or no video"),
    ],
)
def test_files_without_a_video(tmp_path, content, reason):
    (tmp_path / "clip.mp4").write_bytes(content)
    for source in (content, str(tmp_path / "clip.mp4")):
        if source == str(tmp_path / "clip.mp4") and not content:
            reason = "damaged or no video"
        with pytest.raises(BrokenVideo, match=reason):
            VideoReader(source)
    with pytest.raises(BrokenVideo, match="No such file"):
        VideoReader(str(tmp_path / "nothing.mp4"))


def test_truncated_and_flipped_bytes_never_hang_or_crash(tmp_path):
    whole = write(io.BytesIO(), "libx264", form="matroska", bf="2", g="10").getvalue()
    with VideoReader(whole[: len(whole) // 2]) as video:
        assert 0 < video.num_frames < 40
        assert numbers_of(video.read([1])) == [1]
    rng = np.random.default_rng(0)
    for _ in range(25):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(0, len(damaged), 20)] = rng.integers(0, 256, 20)
        try:
            with VideoReader(damaged.tobytes()) as video:
                assert video.read(range(0, video.num_frames, 5)).dtype.itemsize == 1
        except BrokenVideo:
            continue


@pytest.mark.slow
def test_memory_and_open_files_do_not_grow(tmp_path):
    path = str(write(tmp_path / "clip.mp4", "libx264", bf="2", g="10"))

    def use(times: int) -> None:
        for start in range(times):
            with VideoReader(path) as video:
                video.read(np.arange(start % 8, 40, 4))

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    use(60)
    memory, files = resident(), len(os.listdir("/proc/self/fd"))
    use(300)
    assert len(os.listdir("/proc/self/fd")) == files
    # A clip's frames are 120 kB, a decoder 2 MB: what leaked per decode would be far above this.
    assert resident() - memory < 12e6
