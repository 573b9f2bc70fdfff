"""`prepare`: what the index says, what is written, what continues, what is refused."""

import json
import zipfile
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import vistill
from vistill.data import open_source
from vistill.data.motion_clips import write_video
from vistill.data.source import Stretch
from vistill.data.video import prepare as collection
from vistill.data.video.clips import ClipDecoder
from vistill.data.video.reader import VideoReader
from vistill.errors import UserError


def clip(path: Path, frames: int, value: int = 0, width: int = 80) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = torch.arange(frames)[:, None, None, None] * 4 + value
    write_video(path, ramp.expand(-1, 48, width, 3).byte())


@pytest.fixture
def videos(tmp_path) -> Path:
    root = tmp_path / "videos"
    clip(root / "run" / "a.mp4", 12)
    clip(root / "run" / "v.1.mp4", 9, 50)
    clip(root / "jump" / "a.mp4", 20, 30)
    (root / "jump" / "copy.mp4").write_bytes((root / "jump" / "a.mp4").read_bytes())
    (root / "jump" / "broken.avi").write_text("no video")
    (root / "jump" / "empty.webm").write_bytes(b"")
    return root


def rows(result) -> dict[str, dict]:
    return {row["source"]: row for row in pq.read_table(result.index).to_pylist()}


@pytest.mark.parametrize("quick", [False, True])
def test_the_index_tells_what_is_there(videos, tmp_path, quick):
    result = vistill.prepare(videos, out=tmp_path / "out", quick=quick, workers=0)
    found = rows(result)
    assert found["jump/broken.avi"]["problem"] == "damaged or no video"
    assert found["jump/empty.webm"]["problem"] == "damaged or no video"
    row = found["run/a.mp4"]
    assert row["path"] == str(videos / "run/a.mp4")
    assert (row["frames"], row["width"], row["height"], row["label"]) == (12, 80, 48, "run")
    assert (row["codec"], row["corrupt"], row["problem"]) == ("h264", 0, None)
    assert row["fps"] == pytest.approx(15, rel=0.01)
    assert row["duration"] == pytest.approx(12 / 15, rel=0.02)
    assert row["size"] == (videos / "run/a.mp4").stat().st_size
    assert len(row["hash"]) == 64
    assert (result.clips, result.lengths, result.doubles) == (4, (9, 20, 20), 1)
    assert "4 clips of 9 to 20 frames" in str(result)
    assert "jump/broken.avi: damaged or no video" in str(result)
    source = open_source(str(result.index), "video")
    assert len(source) == 4
    assert source.classes == ["jump", "run"]


def test_transcoded_clips_have_the_same_frames(videos, tmp_path):
    result = vistill.prepare(
        videos, out=tmp_path / "out", transcode=True, short_side=32, gop=4, workers=0
    )
    row = rows(result)["run/v.1.mp4"]
    assert row["path"] == "clips/run/v_1.mp4"
    assert (row["frames"], row["height"]) == (9, 32)
    with VideoReader(str(tmp_path / "out" / row["path"])) as video:
        grey = video.read(range(9)).float().mean((0, 2, 3))
        assert video._keys.tolist() == [0, 4, 8]
    torch.testing.assert_close(grey, torch.arange(9) * 4.0 + 50, atol=3, rtol=0)
    assert rows(result)["jump/broken.avi"]["problem"]
    assert not (tmp_path / "out/clips/jump/broken.mp4").exists()


@pytest.mark.parametrize("codec", ["hevc", "vp9"])
def test_codecs(tmp_path, codec):
    clip(tmp_path / "v" / "a.mp4", 6)
    result = vistill.prepare(
        tmp_path / "v", out=tmp_path / "out", transcode=True, codec=codec, workers=0
    )
    assert result.codecs == {codec: 1}
    assert result.lengths == (6, 6, 6)


def test_shards_and_their_index_hold_the_same(videos, tmp_path):
    out = tmp_path / "out"
    result = vistill.prepare(videos, out=out, transcode=True, shards=1, workers=0)
    assert [p.name for p in sorted(out.glob("*.tar"))] == ["shard-00000.tar"]
    assert not (out / "clips").exists()
    by_index = open_source(str(result.index), "video")
    by_shard = open_source(str(out / "shard-*.tar"), "video")
    assert len(by_index) == len(by_shard) == 4
    order = sorted(range(4), key=by_shard.sample_name)
    for i, j in zip(sorted(range(4), key=by_index.sample_name), order, strict=True):
        assert by_index.place(i) == by_shard.place(j)
        assert by_index.labels[i] == by_shard.labels[j]
    clip(videos / "run" / "new.mp4", 5)
    grown = vistill.prepare(videos, out=out, transcode=True, shards=1, workers=0)
    assert grown.clips == 5
    assert len(list(out.glob("*.tar"))) == 2
    assert len(open_source(str(grown.index), "video")) == 5


def test_only_new_and_changed_videos_are_looked_at(videos, tmp_path, capsys):
    out = tmp_path / "out"
    vistill.prepare(videos, out=out, workers=0)
    journal = out / collection.JOURNAL
    before = journal.read_bytes()
    journal.write_bytes(before + b'{"key": "cut sho')
    clip(videos / "run" / "a.mp4", 15)
    result = vistill.prepare(videos, out=out, workers=0)
    assert rows(result)["run/a.mp4"]["frames"] == 15
    assert "5 of 6 videos were done before" in capsys.readouterr().out
    assert journal.read_bytes().startswith(before)
    assert len(journal.read_text().splitlines()) == len(before.splitlines()) + 1
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_stretches_of_a_list_are_cut_out(videos, tmp_path):
    (tmp_path / "list.txt").write_text("videos/jump/a.mp4 0.2 0.6 x\nvideos/jump/a.mp4 0 0.2 y\n")
    whole = vistill.prepare(tmp_path / "list.txt", out=tmp_path / "index", workers=0)
    source = open_source(str(whole.index), "video")
    assert [source.span(i) for i in range(2)] == [Stretch(0.2, 0.6), Stretch(0.0, 0.2)]
    cut = vistill.prepare(tmp_path / "list.txt", out=tmp_path / "cut", transcode=True, workers=0)
    assert [row["frames"] for row in pq.read_table(cut.index).to_pylist()] == [6, 3]
    assert open_source(str(cut.index), "video").span(0) is None


def test_mistakes_are_told_before_anything_is_written(videos, tmp_path):
    out = tmp_path / "out"

    def fails(match: str, source: Path = videos, **settings) -> None:
        with pytest.raises(UserError, match=match):
            vistill.prepare(source, out=settings.pop("to", out), **settings)
        assert not out.exists()

    fails("--gop is about re-encoding", gop=4)
    fails("--short-side must be 16 to 16384, not 2", transcode=True, short_side=2)
    fails("--workers must be 0 to 512, not 100000", workers=100_000)
    fails("--shards must be 1 to 1000000, not nan", transcode=True, shards=float("nan"))
    fails("--codec must be one of h264, hevc, vp9, not 'h264x'", transcode=True, codec="h264x")
    fails("--max-damaged must be a share from 0 to 1, not 2", max_damaged=2)
    fails("--timeout must be a number of seconds above 0, not 0", timeout=0)
    fails("does not exist", source=tmp_path / "nowhere")
    fails("is not empty", to=videos)
    clip(tmp_path / "few" / "a.mp4", 4)
    made = vistill.prepare(tmp_path / "few", out=tmp_path / "few-out", transcode=True, shards=1,
                           workers=0)  # fmt: skip
    with zipfile.ZipFile(tmp_path / "few.zip", "w") as archive:
        archive.write(tmp_path / "few" / "a.mp4", "a.mp4")
    fails("is an archive", source=tmp_path / "few.zip")
    with pytest.raises(UserError, match="prepared from another source or with other settings"):
        vistill.prepare(videos, out=made.index.parent)


def test_how_frames_are_reached_is_remembered(tmp_path, monkeypatch):
    root = tmp_path / "videos"
    root.mkdir()
    for name, options in {"b.avi": {"bf": "3"}, "b.mpg": {"bf": "3"}, "sound.mp4": {}}.items():
        with av.open(str(root / name), "w") as out:
            stream = out.add_stream("libx264", rate=15, options={"g": "12", **options})
            stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
            for value in range(60):
                grey = np.full((48, 80, 3), value * 4, np.uint8)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
            out.mux(stream.encode())
    result = vistill.prepare(root, out=tmp_path / "out", workers=0)
    found = rows(result)
    assert [found[name]["frames"] for name in sorted(found)] == [60] * 3
    assert found["sound.mp4"]["proof"] is None
    assert len(found["b.avi"]["proof"]["entries"]) > 1
    assert len(found["b.mpg"]["proof"]["entries"]) <= 1
    assert result.from_start == 0  # short ones

    monkeypatch.setattr("vistill.data.video.reader._proofs", {})
    monkeypatch.setattr(VideoReader, "_prove", None)  # not done again
    source = open_source(str(result.index), "video")
    for i in range(3):
        with VideoReader(source.place(i), source.proof(i)) as video:
            assert video.num_frames == 60
            for wanted in ([50], [7, 20, 33], [59, 3]):
                grey = video.read(wanted).float().mean((0, 2, 3))
                expected = torch.tensor(wanted) * 4.0
                torch.testing.assert_close(grey, expected, atol=2, rtol=0)
    decoder = ClipDecoder(16, 2, "dense")
    assert decoder(source, 0, np.random.default_rng(0)).shape == (3, 16, 48, 80)


def test_without_the_extra(videos, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pip install 'vistill\[parquet\]'"):
        vistill.prepare(videos, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
