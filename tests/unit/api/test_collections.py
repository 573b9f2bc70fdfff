"""`prepare --format`: each official layout, from its annotation to the labels of the index."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import vistill
from vistill.data import open_source
from vistill.data.motion_clips import write_video
from vistill.data.source import Stretch
from vistill.errors import UserError
from vistill.runs.video_index import PrepareResult


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> bytes:
    """A clip of 20 frames, two seconds long."""
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    write_video(path, torch.full((20, 32, 32, 3), 90).byte(), fps=10)
    return path.read_bytes()


@pytest.fixture
def place(tmp_path, clip):
    """Puts clips below the root, whatever their names end with."""

    def put(*names: str) -> None:
        for name in names:
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(clip)

    return put


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def run(tmp_path: Path, format: str, annotations: Path | str | None, **more) -> PrepareResult:
    more.setdefault("root", tmp_path / "root")
    out = more.pop("out", tmp_path / "out")
    return vistill.prepare(
        format=format, annotations=annotations, out=out, quick=True, workers=0, **more
    )


def read(index: Path, root: Path) -> dict[str, str | None]:
    """Label by path below the root, as training would have it."""
    source = open_source(str(index), "video")
    known = source.labels
    return {
        str(Path(source.place(i)).relative_to(root)): (
            None if known is None or known[i] < 0 else source.classes[known[i]]
        )
        for i in range(len(source))
    }


KINETICS = """label,youtube_id,time_start,time_end,split
air drumming,-0abc_DEF12,1,11,train
"playing guitar",ghi-JKL_345,30,40,train
abseiling,zzzzzzzzzzz,0,10,train
playing guitar,only_the_id,0,2,val
"""


@pytest.mark.parametrize(
    "files",
    [
        ("-0abc_DEF12_000001_000011.mp4", "ghi-JKL_345_000030_000040.mkv", "only_the_id.webm"),
        ("train/air_drumming/-0abc_DEF12_000001_000011.mp4",
         "train/playing guitar/ghi-JKL_345.mp4",
         "val/playing guitar/only_the_id_000000_000002.mp4"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_kinetics(tmp_path, place, files, kind, capsys):
    place(*files, "not_in_the_annotation.mp4")
    path = text(tmp_path / "k.csv", KINETICS)
    if kind == "json":
        rows = [line.replace('"', "").split(",") for line in KINETICS.splitlines()[1:]]
        told = {row[1]: {"annotations": {"label": row[0], "segment": [int(row[2]), int(row[3])]},
                         "subset": {"val": "validate"}.get(row[4], row[4])}
                for row in rows}  # fmt: skip
        path = text(tmp_path / "k.json", json.dumps(told))
    result = run(tmp_path, "k400", path)
    root = tmp_path / "root"
    assert read(result.index, root) == dict(
        zip(files, ["air drumming", "playing guitar", "playing guitar"], strict=True)
    )
    assert list(read(result.splits["train"], root)) == list(files[:2])
    assert list(read(result.splits["val"], root)) == [files[2]]
    said = capsys.readouterr().out
    assert "1 of 4 clips have no file below" in said
    assert "missing.txt names them: zzzzzzzzzzz_000000_000010" in said
    assert (result.index.parent / "missing.txt").read_text() == "zzzzzzzzzzz_000000_000010\n"
    assert "1 of 4 files below" in said
    assert "are not in the annotation: not_in_the_annotation.mp4" in said


def test_kinetics_whole_recordings_keep_their_part(tmp_path, place, clip):
    """`ID.mp4` is cut already where it is as long as the part, and else the whole recording."""
    place("cut.mp4", "whole.mp4")
    write_video(tmp_path / "root" / "whole.mp4", torch.full((80, 32, 32, 3), 9).byte(), fps=10)
    path = text(
        tmp_path / "train.csv", "label,youtube_id,time_start,time_end\nu,cut,5,7\nv,whole,3,5\n"
    )
    source = open_source(str(run(tmp_path, "k700", path).index), "video")
    assert [source.span(i) for i in range(2)] == [None, Stretch(3.0, 5.0)]


def test_something_something(tmp_path, place):
    place("101.webm", "102.webm", "103.webm", "104.webm")
    folder = tmp_path / "labels"
    for name, entries in {
        "train": [{"id": "101", "label": "putting a mug on a desk", "placeholders": ["a mug"],
                   "template": "Putting [something] on a [surface]"},
                  {"id": "102", "label": "x", "template": "Moving [something] up"}],
        "validation": [{"id": "103", "label": "y", "template": "Moving [something] up"}],
        "test": [{"id": "104"}],
    }.items():  # fmt: skip
        text(folder / f"something-something-v2-{name}.json", json.dumps(entries))
    classes = {"Moving something up": "0", "Putting something on a surface": "1"}
    text(folder / "something-something-v2-labels.json", json.dumps(classes))
    result = run(tmp_path, "ssv2", folder)
    assert read(result.index, tmp_path / "root") == {
        "101.webm": "Putting something on a surface", "102.webm": "Moving something up",
        "103.webm": "Moving something up", "104.webm": None,
    }  # fmt: skip
    assert sorted(result.splits) == ["test", "train", "val"]
    only = run(tmp_path, "ssv2", folder, split="validation", out=tmp_path / "val")
    assert list(read(only.index, tmp_path / "root")) == ["103.webm"]


@pytest.mark.parametrize("flat", [False, True])
def test_ucf101(tmp_path, place, flat):
    names = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01", "YoYo/v_YoYo_g09_c02",
             "YoYo/v_YoYo_g01_c01"]  # fmt: skip
    files = [f"{Path(name).name if flat else name}.avi" for name in names]
    place(*files)
    folder = tmp_path / "ucfTrainTestlist"
    text(folder / "classInd.txt", "1 ApplyEyeMakeup\n101 YoYo\n")
    text(folder / "trainlist01.txt", f"{names[0]}.avi 1\r\n{names[1]}.avi 101\r\n")
    text(folder / "testlist01.txt", f"{names[2]}.avi\n")
    result = run(tmp_path, "ucf101", folder)
    assert read(result.index, tmp_path / "root") == dict(
        zip(files, ["ApplyEyeMakeup", "YoYo", "YoYo"], strict=True)
    )
    assert list(read(result.splits["test"], tmp_path / "root")) == [files[2]]
    text(folder / "trainlist02.txt", f"{names[2]}.avi 101\n")
    with pytest.raises(UserError, match=r"splits 01, 02.*such as '.*\*list01.txt'"):
        run(tmp_path, "ucf101", folder)
    again = run(tmp_path, "ucf101", f"{folder}/*list01.txt", out=tmp_path / "again")
    assert again.clips == 3


def test_hmdb51(tmp_path, place, capsys):
    names = ["April_09_brush_hair_u_nm_np1_ba_goo_0", "a#b_(c)!_brush_hair_f_cm_np1_ri_goo_1",
             "unused_brush_hair_0"]  # fmt: skip
    place(*(f"brush_hair/{name}.avi" for name in names), "wave/w_wave_0.avi")
    folder = tmp_path / "testTrainMulti_7030_splits"
    lines = "".join(f"{name}.avi {number} \n" for name, number in zip(names, "120", strict=True))
    text(folder / "brush_hair_test_split1.txt", lines)
    text(folder / "wave_test_split1.txt", "w_wave_0.avi 1 \n")
    text(folder / "wave_test_split2.txt", "w_wave_0.avi 2 \n")
    with pytest.raises(UserError, match=r"splits 1, 2, which hold the same clips"):
        run(tmp_path, "hmdb51", folder)
    result = run(tmp_path, "hmdb51", f"{folder}/*_test_split1.txt")
    assert read(result.splits["train"], tmp_path / "root") == {
        f"brush_hair/{names[0]}.avi": "brush_hair", "wave/w_wave_0.avi": "wave",
    }  # fmt: skip
    assert list(read(result.splits["test"], tmp_path / "root")) == [f"brush_hair/{names[1]}.avi"]
    assert "1 clips belong to no part and are left out" in capsys.readouterr().out


def test_moments_in_time(tmp_path, place):
    """A file name may come in several classes, and a missing one is not taken from another."""
    place("training/blocking/getty-1_4.mp4", "training/dancing/yt-2_7.mp4",
          "validation/blocking/getty-9_1.mp4")  # fmt: skip
    folder = tmp_path / "moments"
    text(folder / "trainingSet.csv", "blocking/getty-1_4.mp4,blocking,3,0\n"
         "dancing/yt-2_7.mp4,dancing,3,1\nblocking/yt-2_7.mp4,blocking,3,1\n")  # fmt: skip
    text(folder / "validationSet.csv", "blocking/getty-9_1.mp4,blocking,5,0\n")
    result = run(tmp_path, "mit", f"{folder}/*Set.csv")
    assert read(result.index, tmp_path / "root") == {
        "training/blocking/getty-1_4.mp4": "blocking", "training/dancing/yt-2_7.mp4": "dancing",
        "validation/blocking/getty-9_1.mp4": "blocking",
    }  # fmt: skip
    assert (result.index.parent / "missing.txt").read_text() == "blocking/yt-2_7\n"
    assert sorted(result.splits) == ["train", "val"]


def test_ava(tmp_path, place):
    place("-5KQ66BBWC4.mkv")
    write_video(tmp_path / "root" / "film.mp4", torch.full((120, 16, 16, 3), 9).byte(), fps=10)
    path = text(
        tmp_path / "ava_train_v2.2.csv",
        "-5KQ66BBWC4,0902,0.1,0.2,0.3,0.4,12,1\n-5KQ66BBWC4,0903,,,,,,\n"
        "film,4,0.1,0.2,0.3,0.4,80,1\nfilm,6,0.1,0.2,0.3,0.4,80,1\nlost,0902,0,0,1,1,80,1\n",
    )
    result = run(tmp_path, "ava", path)
    assert read(result.index, tmp_path / "root") == {"-5KQ66BBWC4.mkv": None, "film.mp4": None}
    source = open_source(str(result.index), "video")
    assert [source.span(i) for i in range(2)] == [None, Stretch(2.0, 8.0)]
    assert (result.index.parent / "missing.txt").read_text() == "lost\n"


def frames(path: Path, count: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (24, 16), (10 * number,) * 3).save(path / f"img_{number + 1:05}.png")


CLASSES = {
    "names.txt": "abseiling\nair drumming\n",
    "numbers.txt": "0 abseiling\n1 air drumming\n",
    "categories.csv": "abseiling,0\nair drumming,1\n",
    "map.json": '{"abseiling": "0", "air drumming": "1"}',
    "ids.json": '{"0": "abseiling", "1": "air drumming"}',
    "list.json": '["abseiling", "air drumming"]',
}


@pytest.mark.parametrize("name", CLASSES)
def test_rawframes_with_names_of_classes(tmp_path, name, capsys):
    frames(tmp_path / "root" / "v one", 6)
    frames(tmp_path / "root" / "two", 8)
    path = text(tmp_path / "k400_train_list_rawframes.txt", "v one 6 1\ntwo 2 4 0\nlost 9 0\n")
    result = run(tmp_path, "rawframes", path, classes=text(tmp_path / name, CLASSES[name]))
    assert read(result.index, tmp_path / "root") == {"v one": "air drumming", "two": "abseiling"}
    source = open_source(str(result.index), "video")
    assert [source.span(i) for i in range(2)] == [Stretch(0, 6, "frames"), Stretch(2, 6, "frames")]
    assert {row["split"] for row in pq.read_table(result.index).to_pylist()} == {"train"}
    bare = run(tmp_path, "rawframes", path, out=tmp_path / "bare")
    assert set(read(bare.index, tmp_path / "root").values()) == {"1", "0"}
    assert "its labels are numbers; --classes FILE names them" in capsys.readouterr().out


def test_official_annotations_of_folders_of_frames(tmp_path):
    frames(tmp_path / "root" / "air_drumming" / "-0abc_DEF12_000001_000011", 4)
    frames(tmp_path / "root" / "playing_guitar" / "ghi-JKL_345_000030_000040", 4)
    result = run(tmp_path, "k400", text(tmp_path / "k.csv", KINETICS))
    assert list(read(result.index, tmp_path / "root").values()) == [
        "air drumming",
        "playing guitar",
    ]


def test_videofolder(tmp_path, place):
    place("a b/1.mp4", "c/2.mp4")
    path = text(tmp_path / "val.txt", "a b/1.mp4 0\nc/2.mp4 1\n")
    classes = text(tmp_path / "names.txt", "jump\nrun fast\n")
    result = run(tmp_path, "videofolder", path, classes=classes)
    assert read(result.index, tmp_path / "root") == {"a b/1.mp4": "jump", "c/2.mp4": "run fast"}
    text(tmp_path / "val.txt", "a b/1.mp4 0\nc/2.mp4 2\n")
    with pytest.raises(UserError, match="does not name class 2; it names 0 to 1"):
        run(tmp_path, "videofolder", path, classes=classes, overwrite=True)


@pytest.mark.parametrize("labels", ["cls", "json", "csv", "keys"])
def test_webdataset(tmp_path, clip, labels):
    (tmp_path / "root").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "root" / f"train-{shard}.tar", "w") as archive:
            for n in range(2):
                members = {f"{shard}{n}.mp4": clip}
                if labels == "cls":
                    members[f"{shard}{n}.cls"] = f"{n}".encode()
                if labels == "json":
                    members[f"{shard}{n}.json"] = json.dumps({"label": n}).encode()
                for name, data in members.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    keys = None
    told = {f"{shard}{n}": n for shard in range(2) for n in range(2)}
    if labels == "csv":
        keys = text(tmp_path / "keys.csv", "".join(f"{key},{n}\n" for key, n in told.items()))
    if labels == "keys":
        keys = text(
            tmp_path / "keys.json", json.dumps({f"{key}.mp4": n for key, n in told.items()})
        )
    classes = text(tmp_path / "names.txt", "jump\nrun\n")
    result = run(tmp_path, "webdataset", keys, classes=classes)
    source = open_source(str(result.index), "video")
    assert [source.sample_name(i) for i in (0, 3)] == ["train-0.tar/00.mp4", "train-1.tar/11.mp4"]
    assert [source.classes[label] for label in source.labels] == ["jump", "run", "jump", "run"]
    assert source.place(3) == clip
    assert all(row["frames"] == 20 for row in pq.read_table(result.index).to_pylist())


def test_a_corrected_annotation_changes_labels_without_reading_again(tmp_path, place, capsys):
    place("a.mp4", "b.mp4")
    path = text(tmp_path / "l.txt", "a.mp4 u\nb.mp4 v\n")
    run(tmp_path, "videofolder", path)
    text(path, "a.mp4 w\nb.mp4 v\n")
    result = run(tmp_path, "videofolder", path)
    assert read(result.index, tmp_path / "root") == {"a.mp4": "w", "b.mp4": "v"}
    assert "2 of 2 videos were done before" in capsys.readouterr().out


def test_a_prepared_folder_is_read_by_its_index(tmp_path, place):
    place("run/a.mp4", "jump/b.mp4")
    vistill.prepare(
        tmp_path / "root", out=tmp_path / "out", transcode=True, short_side=16, workers=0
    )
    source = open_source(str(tmp_path / "out"), "video")
    assert source.classes == ["jump", "run"]


def test_lines_that_say_the_same_and_clips_of_several_classes(tmp_path, place, capsys):
    place("a.mp4", "b.mp4")
    path = text(tmp_path / "l.txt", "a.mp4 u\na.mp4 u\nb.mp4 u\nb.mp4 v\n")
    result = run(tmp_path, "videofolder", path)
    assert result.clips == 3
    said = capsys.readouterr().out
    assert "1 lines say the same as an earlier one: a.mp4" in said
    assert "1 clips have several classes, once each: b.mp4" in said


def test_mistakes(tmp_path, place):
    place("a.mp4")
    path = text(tmp_path / "l.txt", "a.mp4 u\n")

    def fails(match: str, format: str | None, annotations=path, **more) -> None:
        with pytest.raises(UserError, match=match):
            run(tmp_path, format, annotations, **more)
        assert not (tmp_path / "out").exists()

    fails("must be one of k400, .* not 'ucf'; did you mean 'ucf101'", "ucf")
    fails("webdataset, not 'zzz'$", "zzz")
    fails("--annotations goes with --format", None)
    fails("leave out", "videofolder", source=tmp_path)
    fails("needs --annotations FILE", "ucf101", None)
    fails("needs --root DIR", "ucf101", root=None)
    fails("does not exist; did you mean", "videofolder", tmp_path / "l.tx")
    fails("no header with youtube_id.*lists of 'path label' are --format videofolder", "k400")
    fails("line 1 is not of the form 'Class/video.avi number': 'a.mp4 u'", "ucf101")
    fails("is not called CLASS_test_split1.txt", "hmdb51")
    fails("is no JSON", "ssv2")
    fails("line 1 is not of the form 'class/video.mp4,class", "mit")
    fails("is no .tar", "webdataset", None)
    fails("--split val: the annotation has 1 of no split", "videofolder", split="val")
    text(path, "b.mp4 u\n")
    fails("none of the 1 clips of .* has a file below .* such as b.mp4", "videofolder")
