"""Folders of numbered pictures as clips: order, what is missing, and the same frames as a video."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import vistill
from vistill.data import open_source
from vistill.data.motion_clips import write_video
from vistill.data.source import Stretch
from vistill.data.video.clips import ClipDecoder, part_of, require_clips
from vistill.data.video.frames import FrameFolder, open_video
from vistill.data.video.reader import BrokenVideo
from vistill.errors import UserError


def picture(value: int, size: tuple[int, int] = (24, 16), kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(out, kind)
    return out.getvalue()


def folder(path: Path, count: int = 12, form: str = "img_{:05}.png", first: int = 1) -> Path:
    """Frame number `i` is a picture of grey `10 i`."""
    path.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (path / form.format(first + number)).write_bytes(picture(10 * number))
    return path


def greys(clip: torch.Tensor) -> list[float]:
    return (clip.float().mean(dim=(0, 2, 3)) / 10).tolist()


@pytest.mark.parametrize(
    ("form", "first"),
    [("img_{:05}.png", 1), ("{}.png", 0), ("frame{}.PNG", 5), ("v_a_g01_c01_{:06}.png", 90),
     ("image-{:03}.png", 995), ("clip.v2.{}.png", 8)],
)  # fmt: skip
def test_frames_come_by_their_numbers(tmp_path, form, first):
    """Also where 10 comes before 9 in the order of names."""
    with open_video(str(folder(tmp_path / "v", 12, form, first))) as video:
        assert isinstance(video, FrameFolder)
        assert (video.num_frames, video.told_frames) == (12, 12)
        assert (video.width, video.height, video.codec) == (24, 16, "png")
        assert greys(video.read([11, 0, 3, 3])) == [11, 0, 3, 3]
        assert [number for number, _ in video.frames()] == list(range(12))


def test_flow_beside_the_frames_and_other_files_are_passed_over(tmp_path):
    root = folder(tmp_path / "v", 4)
    for number in range(1, 4):
        for prefix in ("flow_x_", "flow_y_", "x_", "._img_"):
            (root / f"{prefix}{number:05}.png").write_bytes(picture(250))
    (root / "cover.png").write_bytes(picture(250))
    (root / "notes_1.txt").write_text("x")
    with open_video(str(root)) as video:
        assert greys(video.read(range(4))) == [0, 1, 2, 3]


def test_what_is_no_row_of_frames(tmp_path):
    root = folder(tmp_path / "two", 3)
    folder(root, 2, "left_{}.png")
    with pytest.raises(BrokenVideo, match="several rows of numbered pictures: 3 like img_00001"):
        open_video(str(root))
    root = folder(tmp_path / "twice", 3)
    (root / "img_2.png").write_bytes(picture(0))
    with pytest.raises(BrokenVideo, match="holds frame 2 twice: img_"):
        open_video(str(root))
    (tmp_path / "none").mkdir()
    with pytest.raises(BrokenVideo, match="no numbered picture in it"):
        open_video(str(tmp_path / "none"))
    root = folder(tmp_path / "sizes", 3)
    (root / "img_00002.png").write_bytes(picture(0, (32, 16)))
    with open_video(str(root)) as video, pytest.raises(BrokenVideo, match="24 × 16 and 32 × 16"):
        video.read([0, 1])


def test_frames_that_cannot_be_decoded_repeat_their_neighbour(tmp_path):
    root = folder(tmp_path / "v", 6)
    (root / "img_00003.png").write_bytes(b"no picture")
    with open_video(str(root)) as video:
        assert greys(video.read(range(6))) == [0, 1, 1, 3, 4, 5]
        assert video.corrupt == 1
        assert video.check() == (5, 1, 0)
        with pytest.raises(BrokenVideo, match="1 of 1 frames cannot be decoded"):
            video.read([2])


def test_numbers_without_a_picture_are_counted(tmp_path):
    root = folder(tmp_path / "v", 10)
    (root / "img_00004.png").unlink()
    with open_video(str(root)) as video:
        assert greys(video.read(range(9))) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        assert video.check() == (9, 1, 0)
    every = tmp_path / "fifth"  # every fifth frame of a video: nothing is missing
    every.mkdir()
    for number in range(0, 50, 5):
        (every / f"{number}.png").write_bytes(picture(number))
    with open_video(str(every)) as video:
        assert video.check() == (10, 0, 0)


def test_parts(tmp_path):
    with open_video(str(folder(tmp_path / "v", 10))) as video:
        assert part_of(video, None) == range(10)
        assert part_of(video, Stretch(3, 7, "frames")) == range(3, 7)
        assert part_of(video, Stretch(3, 70, "frames")) == range(3, 10)
        with pytest.raises(BrokenVideo, match="has 10 frames, and its part is frames 10 to 19"):
            part_of(video, Stretch(10, 20, "frames"))
        with pytest.raises(BrokenVideo, match=r"is a folder of frames.*give start_frame"):
            part_of(video, Stretch(0.5, 2.0))


def test_parts_of_videos_by_frames_and_behind_the_end(tmp_path):
    ramp = (torch.arange(20) * 10)[:, None, None, None].expand(-1, 16, 24, 3).byte()
    write_video(tmp_path / "a.mp4", ramp, fps=10)
    (tmp_path / "l.csv").write_text("path,start_frame,end_frame\na.mp4,5,9\na.mp4,20,24\n")
    source = open_source(str(tmp_path / "l.csv"), "video")
    clip = ClipDecoder(4, 1, "sparse", views=1)(source, 0, np.random.default_rng(0))
    assert [round(grey) for grey in greys(clip)] == [5, 6, 7, 8]
    with pytest.raises(BrokenVideo, match="has 20 frames, and its part is frames 20 to 23"):
        ClipDecoder(4, 1, "sparse")(source, 1, np.random.default_rng(0))
    with open_video(str(tmp_path / "a.mp4")) as video:
        assert part_of(video, Stretch(1.0, 9.0)) == range(10, 20)
        with pytest.raises(BrokenVideo, match=r"is over after 2 s, and its part is 2.5 s to 3 s"):
            part_of(video, Stretch(2.5, 3.0))


@pytest.mark.parametrize(
    "sampling", ["dense", "stretched", "segments", "slices", "intervals", "sparse"]
)
def test_the_same_frames_are_drawn_as_of_a_video(tmp_path, sampling):
    folder(tmp_path / "frames" / "v", 25)
    ramp = (torch.arange(25) * 10)[:, None, None, None].expand(-1, 16, 24, 3).byte()
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "v.mp4", ramp)
    frames, videos = (open_source(str(tmp_path / k), "video") for k in ("frames", "videos"))
    for views in (None, 2):
        for seed in range(3):
            decoder = ClipDecoder(4, 2, sampling, views)
            drawn = [decoder(s, 0, np.random.default_rng(seed)) for s in (frames, videos)]
            assert [round(g) for g in greys(drawn[0])] == [round(g) for g in greys(drawn[1])]
            assert drawn[0].stride()[0] == drawn[1].stride()[0] == 1  # channels last


def test_a_tree_of_frame_folders_is_labelled_like_files(tmp_path):
    for name in ("run/a_1.5x", "run/b", "jump/c"):
        folder(tmp_path / "tree" / name, 4)
    (tmp_path / "tree" / "jump" / "poster_1.png").write_bytes(picture(0))
    source = open_source(str(tmp_path / "tree"), "video")
    assert [source.sample_name(i) for i in range(3)] == ["jump/c", "run/a_1.5x", "run/b"]
    assert source.classes == ["jump", "run"]
    assert source.labels.tolist() == [0, 1, 1]
    assert source.notes == ["no video in it; 3 folders of numbered pictures are read as clips"]
    require_clips(source, ClipDecoder(4, 1, "dense"))
    with pytest.raises(UserError, match=r"needs 8 frames, and the longest .* has 4"):
        require_clips(source, ClipDecoder(4, 2, "dense"))
    alone = open_source(str(tmp_path / "tree" / "run" / "b"), "video")
    assert alone.place(0) == str(tmp_path / "tree" / "run" / "b")
    assert len(open_source(str(tmp_path / "tree"))) == 13  # pictures without data.frames
    write_video(tmp_path / "tree" / "run" / "v.mp4", torch.zeros(4, 16, 16, 3).byte())
    with_video = open_source(str(tmp_path / "tree"), "video")
    assert [with_video.sample_name(i) for i in range(len(with_video))] == ["run/v.mp4"]


def test_prepare_looks_at_every_frame(tmp_path):
    folder(tmp_path / "frames" / "a", 10)
    folder(tmp_path / "frames" / "b", 10)
    (tmp_path / "frames" / "b" / "img_00004.png").unlink()
    folder(tmp_path / "frames" / "c", 10)
    for number in range(3, 6):
        (tmp_path / "frames" / "c" / f"img_{number:05}.png").write_bytes(b"x")
    (tmp_path / "list.txt").write_text("a 10 run\nb 10 run\nc 10 jump\na 20 jump\n")
    result = vistill.prepare(
        tmp_path / "list.txt", root=tmp_path / "frames", out=tmp_path / "out", workers=0
    )
    rows = pq.read_table(result.index).to_pylist()
    assert [row["frames"] for row in rows] == [10, 9, 10, 10]
    assert [row["problem"] for row in rows] == [
        None, None, "3 of 10 frames are missing or cannot be decoded",
        "it has 10 frames, and its part is frames 0 to 19",
    ]  # fmt: skip
    assert [row["corrupt"] for row in rows[:2]] == [0, 2]  # a number is missing, and the list's end
    assert (rows[0]["start_frame"], rows[0]["end_frame"], rows[0]["start"]) == (0, 10, None)
    source = open_source(str(result.index), "video")
    assert source.span(0) == Stretch(0, 10, "frames")
    assert source.classes == ["run"]
    assert len(rows[0]["hash"]) == 64
    assert rows[0]["size"] == sum(f.stat().st_size for f in (tmp_path / "frames/a").iterdir())


def test_frames_are_re_encoded_into_a_video(tmp_path):
    folder(tmp_path / "frames" / "run" / "a", 10)
    result = vistill.prepare(
        tmp_path / "frames", out=tmp_path / "out", transcode=True, gop=4, workers=0
    )
    (row,) = pq.read_table(result.index).to_pylist()
    assert row["path"] == "clips/run/a.mp4"
    with open_video(str(tmp_path / "out" / row["path"])) as video:
        assert [round(grey) for grey in greys(video.read(range(10)))] == list(range(10))
