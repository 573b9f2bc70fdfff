"""Sources of clips: what is found, how lists are read, and what a user is told."""

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vistill.data import open_source
from vistill.data.source import Stretch
from vistill.errors import UserError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def names(source) -> list[str]:
    return [source.sample_name(i) for i in range(len(source))]


def test_folder_by_class(tmp_path):
    touch(tmp_path, "run/a.mp4", "run/b.AVI", "jump/c.webm", "jump/d.mkv", "jump/cover.jpg")
    source = open_source(str(tmp_path), "video")
    assert names(source) == ["jump/c.webm", "jump/d.mkv", "run/a.mp4", "run/b.AVI"]
    assert source.classes == ["jump", "run"]
    assert source.labels.tolist() == [0, 0, 1, 1]
    assert source.place(2) == str(tmp_path / "run/a.mp4")
    assert source.span(2) is None
    assert len(open_source(str(tmp_path))) == 1


LISTS = {
    "list.txt": "a b.mp4 run\nc.mp4 jump\n",
    "list.csv": "a b.mp4,run\nc.mp4,jump\n",
    "header.csv": "label,path\nrun,a b.mp4\njump,c.mp4\n",
    "spaces.csv": "a b.mp4 run\nc.mp4 jump\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_lists(tmp_path, name):
    touch(tmp_path, "a b.mp4", "c.mp4")
    source = open_source(write(tmp_path / name, LISTS[name]), "video")
    assert names(source) == ["a b.mp4", "c.mp4"]
    assert [source.classes[label] for label in source.labels] == ["run", "jump"]
    assert source.place(0) == str(tmp_path / "a b.mp4")


CUT = {
    "list.txt": "a b.mp4 0.5 2 run\nc.mp4\nc.mp4\t2\t3.25\tjump\n",
    "list.csv": "a b.mp4,0.5,2,run\nc.mp4,0,1,run\nc.mp4,2,3.25,jump\n",
    "header.csv": "path,label,start,end\na b.mp4,run,0.5,2\nc.mp4,run,0,1\nc.mp4,jump,2,3.25\n",
    "spaces.csv": "a b.mp4 0.5 2 run\nc.mp4 0 1 run\nc.mp4 2 3.25 jump\n",
}


@pytest.mark.parametrize("name", CUT)
def test_lists_of_stretches_of_time(tmp_path, name):
    touch(tmp_path, "a b.mp4", "c.mp4")
    source = open_source(write(tmp_path / name, CUT[name]), "video")
    assert source.span(0) == Stretch(0.5, 2.0)
    assert source.span(1) == (None if name == "list.txt" else Stretch(0.0, 1.0))
    assert source.span(2) == Stretch(2.0, 3.25)
    assert source.sample_name(2) == "c.mp4 (2 s to 3.25 s)"
    assert source.classes == ["jump", "run"]
    other = open_source(write(tmp_path / name, CUT[name].replace("0.5", "0.75")), "video")
    assert other.fingerprint() != source.fingerprint()


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("l.txt", "a.mp4 x\n\nb.jpg x\n", "line 3 is neither a clip's path nor 'path label' nor"),
        ("l.txt", "a.mp4 1 two x\n", "line 1: start and end must be seconds, not '1' and 'two'"),
        ("l.txt", "a.mp4 3 2 x\n", "line 1: from 3 s to 2 s is no stretch of time"),
        ("l.csv", "a.mp4,1,2,x\na.mp4,1,x\n", "line 2 has 3 columns, not 4"),
        ("l.csv", "a.mp4,1,-2,x\n", "line 1: from 1 s to -2 s is no stretch"),
        ("l.csv", "path,start\na.mp4,1\n", "line 1 has a column start or end without the other"),
        ("l.csv", "pth,label\na.mp4,1\n", "did you mean 'pth'"),
        ("l.csv", "a.mp4,1,2\n", "line 1: start and end must be seconds|columns and no header"),
        ("l.txt", "b.mp4 x\n", "line 1 lists 'b.mp4', but there is no file"),
        ("l.txt", "", "lists no clips"),
    ],
)
def test_a_line_that_does_not_parse_is_named(tmp_path, name, text, problem):
    touch(tmp_path, "a.mp4")
    with pytest.raises(UserError, match=problem) as error:
        list(names(open_source(write(tmp_path / name, text), "video")))
    assert str(tmp_path / name) in str(error.value)


def test_shards_with_classes(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        for name, content in {"1.mp4": b"one", "1.cls": b"run", "2.mp4": b"two"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    source = open_source(str(tmp_path / "s.tar"), "video")
    assert [source.place(i) for i in range(2)] == [b"one", b"two"]
    assert source.labels.tolist() == [0, -1]


def test_an_index_leaves_problems_out(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    table = {"path": ["x.mp4", "a.mp4", "b.mp4"], "label": [None, "u", "v"],
             "problem": ["damaged", None, None], "start": [None, None, 1.0],
             "end": [None, None, 2.5]}  # fmt: skip
    pq.write_table(pa.table(table), tmp_path / "index.parquet")
    source = open_source(str(tmp_path / "index.parquet"), "video")
    assert names(source) == ["a.mp4", "b.mp4 (1 s to 2.5 s)"]
    assert source.labels.tolist() == [0, 1]
    assert source.notes == ["1 of 3 rows have a problem and are left out"]


def test_the_other_kind_of_file_gets_a_hint(tmp_path):
    touch(tmp_path / "clips", "a.mp4", "b.mp4", "notes.md")
    touch(tmp_path / "pictures", "a.jpg", "b.txt")
    with pytest.raises(UserError, match=r"no picture in .* 3 other files: 2 .mp4 .*data.frames=16"):
        open_source(str(tmp_path / "clips"))
    with pytest.raises(UserError, match=r"2 other files: 1 .jpg .*pictures are read where"):
        open_source(str(tmp_path / "pictures"), "video")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match=r"no clip in .*looked for \.mp4"):
        open_source(str(tmp_path / "nothing"), "video")
