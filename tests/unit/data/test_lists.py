"""Lists: every form in every kind of file, columns that are not read, labels that are none."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vistill.data import open_source
from vistill.data.source import Stretch
from vistill.errors import UserError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def write(path: Path, rows: list[dict]) -> str:
    """The rows in the form that the ending says, with a header where there is one."""
    kind, columns = path.suffix, list(rows[0])
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        separator = {".csv": ",", ".tsv": "\t"}[kind]
        lines = [columns, *([row[c] for c in columns] for row in rows)]
        text = [separator.join("" if x is None else str(x) for x in line) for line in lines]
        path.write_text("\n".join(text) + "\n")
    return str(path)


def problem(path: Path | str, media: str = "video", **settings) -> str:
    with pytest.raises(UserError) as caught:
        open_source(str(path), media, **settings)
    return str(caught.value)


KINDS = [".csv", ".tsv", ".jsonl", ".parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_says_the_same(tmp_path, kind):
    touch(tmp_path, "a b.mp4", "c.mp4")
    rows = [
        {"path": "a b.mp4", "label": "playing guitar", "start": 0.5, "end": 2.0},
        {"path": "c.mp4", "label": "running", "start": None, "end": None},
        {"path": "c.mp4", "label": None, "start": 2.0, "end": 3.25},
    ]
    source = open_source(write(tmp_path / f"l{kind}", rows), "video")
    assert source.classes == ["playing guitar", "running"]
    assert source.labels.tolist() == [0, 1, -1]
    assert [source.span(i) for i in range(3)] == [Stretch(0.5, 2.0), None, Stretch(2.0, 3.25)]
    assert source.place(0) == str(tmp_path / "a b.mp4")
    assert source.notes == ["1 of 3 clips have no class: labels are 1 empty"]


@pytest.mark.parametrize("kind", KINDS)
def test_frames_bound_a_part(tmp_path, kind):
    touch(tmp_path, "a.mp4")
    rows = [{"path": "a.mp4", "start_frame": 30, "end_frame": 90, "label": 3},
            {"path": "a.mp4", "start_frame": 0, "end_frame": 30, "label": 7}]  # fmt: skip
    source = open_source(write(tmp_path / f"l{kind}", rows), "video")
    assert source.span(0) == Stretch(30, 90, "frames")
    assert source.sample_name(0) == "a.mp4 (frames 30 to 89)"
    assert source.classes == ["3", "7"]
    prints = source.fingerprint()
    rows[0]["end_frame"] = 91
    assert open_source(write(tmp_path / f"l{kind}", rows), "video").fingerprint() != prints
    seconds = [{"path": "a.mp4", "start": 30, "end": 90, "label": 3},
               {"path": "a.mp4", "start": 0, "end": 30, "label": 7}]  # fmt: skip
    assert open_source(write(tmp_path / f"s{kind}", seconds), "video").fingerprint() != prints


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"start_frame": 5, "end_frame": 5}, "from frame 5 to 5 is no part: frames are counted"),
        ({"start_frame": -1, "end_frame": 5}, "from frame -1 to 5 is no part"),
        ({"start_frame": 1.5, "end_frame": 5}, "must be whole numbers, not"),
        ({"start_frame": "x", "end_frame": 5}, "must be whole numbers, not 'x' and"),
        ({"start_frame": 1}, "a column start_frame or end_frame without the other"),
        ({"start_frame": 1, "end_frame": 2, "start": 0, "end": 1}, "in seconds and in frames"),
    ],
)
def test_parts_that_are_none(tmp_path, row, message):
    touch(tmp_path, "a.mp4")
    for kind in KINDS:
        path = write(tmp_path / f"l{kind}", [{"path": "a.mp4", **row}])
        assert message in problem(path)
        assert path in problem(path)


TEXT = {
    "plain": ("a b.mp4\nc.mp4\n", [None, None], None),
    "spaces": ("a b.mp4 playing guitar\nc.mp4 running\n", [None, None], [0, 1]),
    "tabs": ("a b.mp4\tplaying guitar\nc.mp4\trunning\n", [None, None], [0, 1]),
    "tab numbers": ("a b.mp4\t1\t2.5\t3 point shot\nc.mp4\tz\n", [Stretch(1, 2.5), None], [0, 1]),
    "seconds": ("a b.mp4 1 2 play guitar\nc.mp4 0 1 z\n", [Stretch(1, 2), Stretch(0, 1)], [0, 1]),
    "VideoMAE": ("a b.mp4 0 -1\nc.mp4 0 -1\n", [None, None], None),
    "rawframes": (
        "some dir 163 1\nd/e 12 4\n", [Stretch(0, 163, "frames"), Stretch(0, 12, "frames")], [0, 1]
    ),
    "offset": (
        "some dir 50 163 1\nd/e 12 ride a bike\n",
        [Stretch(50, 213, "frames"), Stretch(0, 12, "frames")], [0, 1],
    ),
    "no label": (
        "some dir 163\nd/e 0\n", [Stretch(0, 163, "frames"), None], None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", TEXT)
def test_text_forms(tmp_path, form):
    text, spans, labels = TEXT[form]
    touch(tmp_path, "a b.mp4", "c.mp4", "some dir/img_1.jpg", "d/e/img_1.jpg")
    (tmp_path / "list.txt").write_text(text)
    source = open_source(str(tmp_path / "list.txt"), "video")
    assert [source.span(i) for i in range(2)] == spans
    assert (source.labels if labels is None else source.labels.tolist()) == labels
    assert source.place(0) == str(tmp_path / ("some dir" if "some dir" in text else "a b.mp4"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 1 3 5\n", "from 1 s to 3 s"),  # a part, and its label is 5
        ("a.mp4 3 5\n", "a sample has one class, and its labels are 3, 5"),
        ("d/e 163 10 3 5\n", "a sample has one class, and its labels are 3, 5"),
        ("d/e\n", "line 1 is neither a clip's path nor"),
    ],
)
def test_several_labels_are_no_name(tmp_path, text, message):
    touch(tmp_path, "a.mp4", "d/e/img_1.jpg")
    (tmp_path / "l.txt").write_text(text)
    if text == "a.mp4 1 3 5\n":
        assert open_source(str(tmp_path / "l.txt"), "video").classes == ["5"]
    else:
        assert message in problem(tmp_path / "l.txt")
    (tmp_path / "p.txt").write_text("a.png 1 3 5\n")
    assert "its labels are 1, 3, 5" in problem(tmp_path / "p.txt", "image")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("column", "meant"),
    [
        ("lable", "label"),
        ("class", "label"),
        ("time_start", "start"),
        ("startframe", "start_frame"),
    ],
)
def test_a_column_that_is_meant_to_be_read(tmp_path, kind, column, meant):
    touch(tmp_path, "a.mp4")
    said = problem(write(tmp_path / f"l{kind}", [{"path": "a.mp4", column: "1"}]))
    assert f"a column '{column}', which is not read; did you mean '{meant}'?" in said


@pytest.mark.parametrize("kind", KINDS)
def test_other_columns_are_named(tmp_path, kind):
    touch(tmp_path, "a.mp4", "a.png")
    row = {"path": "a.mp4", "label": "u", "class": "v", "camera": 3, "fps": 25}
    source = open_source(write(tmp_path / f"l{kind}", [row]), "video")
    assert source.notes == ["the columns 'class', 'camera' are not used"]
    row = {"path": "a.png", "label": "u", "start": 3}
    assert open_source(write(tmp_path / f"p{kind}", [row])).notes == [
        "the column 'start' is not used"
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_splits_and_problems_are_never_passed_over_silently(tmp_path, kind):
    """An index keeps to them; other lists say that they do not."""
    touch(tmp_path, "a.mp4", "b.mp4")
    rows = [{"path": "a.mp4", "split": "train", "problem": None},
            {"path": "a.mp4", "split": "test", "problem": None},
            {"path": "b.mp4", "split": "test", "problem": "damaged"}]  # fmt: skip
    source = open_source(write(tmp_path / f"l{kind}", rows), "video")
    if kind == ".parquet":
        assert len(source) == 2
        assert source.notes == ["1 of 3 rows have a problem and are left out",
                                "all of its splits are used: 1 train, 1 test"]  # fmt: skip
    else:
        assert len(source) == 3
        assert source.notes == ["the columns 'split', 'problem' are not used"]


def test_headers_in_capitals_and_columns_there_twice(tmp_path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "l.csv").write_text("Label,PATH\nu,a.mp4\n")
    assert open_source(str(tmp_path / "l.csv"), "video").classes == ["u"]
    (tmp_path / "l.csv").write_text("path,label,label\na.mp4,u,v\n")
    assert "has 2 columns 'label'" in problem(tmp_path / "l.csv")


@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_are_no_classes_are_counted(tmp_path, kind):
    touch(tmp_path, "a.mp4")
    labels = ["run", "-1", "nan", "NaN", "", "-1", "run"]
    rows = [{"path": "a.mp4", "label": label} for label in labels]
    source = open_source(write(tmp_path / f"l{kind}", rows), "video")
    assert source.classes == ["run"]
    assert source.labels.tolist() == [0, -1, -1, -1, -1, -1, 0]
    assert source.notes == [
        "5 of 7 clips have no class: labels are 2 '-1', 1 'nan', 1 'NaN', 1 empty"
    ]
    rows = [{"path": "a.mp4", "label": -1}] * 3
    source = open_source(write(tmp_path / f"n{kind}", rows), "video")
    assert source.labels is None
    assert source.notes == ["none of its clips has a class: labels are 3 '-1'"]
    assert source.unlabelled == ("none of its labels is a class", True)


def test_numbers_that_pandas_made_floats_are_the_same_classes(tmp_path):
    touch(tmp_path, "a.mp4")
    table = pa.table({"path": ["a.mp4"] * 3, "label": pa.array([10.0, float("nan"), 9.0])})
    pq.write_table(table, tmp_path / "l.parquet")
    source = open_source(str(tmp_path / "l.parquet"), "video")
    assert source.classes == ["9", "10"]
    assert source.labels.tolist() == [1, -1, 0]


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_a_list_of_labels_is_no_class(tmp_path, kind):
    touch(tmp_path, "a.mp4")
    said = problem(write(tmp_path / f"l{kind}", [{"path": "a.mp4", "label": [1, 2]}]))
    assert "a sample has one class, and its label is [1, 2]" in said


def test_captions_are_told(tmp_path):
    touch(tmp_path, "a.png")
    rows = [{"path": "a.png", "label": f"a dog that runs {n}"} for n in range(30)]
    source = open_source(write(tmp_path / "l.csv", rows))
    assert source.notes[0].startswith("its labels tell 30 classes for 30 pictures; captions")


@pytest.mark.parametrize("kind", [*KINDS, ".txt"])
def test_root(tmp_path, kind):
    touch(tmp_path / "media" / "v", "a.mp4")
    path = tmp_path / "lists" / f"l{kind}"
    path.parent.mkdir()
    if kind == ".txt":
        path.write_text("v/a.mp4 u\n")
    else:
        write(path, [{"path": "v/a.mp4", "label": "u"}])
    said = problem(path)
    assert "but there is no file" in said
    assert "data.root" in said
    source = open_source(str(path), "video", root=tmp_path / "media")
    assert source.place(0) == str(tmp_path / "media" / "v" / "a.mp4")
    here = open_source(str(path), "video", root=tmp_path / "media").fingerprint()
    (tmp_path / "media").rename(tmp_path / "moved")
    assert open_source(str(path), "video", root=tmp_path / "moved").fingerprint() == here
    assert "does not exist; did you mean" in problem(path, root=tmp_path / "move")


def test_root_is_for_lists(tmp_path):
    touch(tmp_path / "media", "a.mp4")
    said = problem(tmp_path / "media", root=tmp_path)
    assert said.endswith(f"'{tmp_path / 'media'}' is no list")


def test_several_lists_of_a_kind(tmp_path):
    touch(tmp_path, "one/a.mp4", "two/b.mp4")
    for kind in KINDS:
        write(tmp_path / "one" / f"l{kind}", [{"path": "a.mp4", "label": "u"}])
        write(tmp_path / "two" / f"l{kind}", [{"path": "b.mp4", "label": "v"}])
        source = open_source(f"{tmp_path}/*/l{kind}", "video")
        assert [source.sample_name(i) for i in range(2)] == ["one/a.mp4", "two/b.mp4"]
        assert source.place(1) == str(tmp_path / "two" / "b.mp4")
        assert source.labels.tolist() == [0, 1]
    assert "several have to be of one kind" in problem(f"{tmp_path}/one/l.*")


def test_a_folder_of_parquet_files_of_pictures(tmp_path):
    for part in range(2):
        cells = [bytes([part, n]) for n in range(3)]
        table = {"image": cells, "label": ["x", None, "y"]}
        pq.write_table(pa.table(table), tmp_path / f"train-{part}.parquet")
    for path in (str(tmp_path), f"{tmp_path}/train-*.parquet"):
        source = open_source(path)
        assert [source.read(i) for i in range(6)] == [
            bytes([p, n]) for p in (0, 1) for n in range(3)
        ]
        assert source.labels.tolist() == [0, -1, 1, 0, -1, 1]
        assert source.sample_name(4) == "train-1.parquet row 1"
        assert source.notes == ["2 of 6 pictures have no class: labels are 2 empty"]


def test_several_indices_keep_their_problems_shards_and_splits(tmp_path):
    touch(tmp_path, "s.tar")
    for part, split in enumerate(["train", "val"]):
        rows = [{"path": f"{part}{n}.mp4", "label": "u", "problem": "damaged" if n else None,
                 "shard": "s.tar", "offset": 10 * part, "size": 1, "split": split}
                for n in range(2)]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{part}.parquet")
    source = open_source(f"{tmp_path}/?.parquet", "video")
    assert [source.sample_name(i) for i in range(2)] == ["s.tar/00.mp4", "s.tar/10.mp4"]
    assert source.notes == [
        "2 of 4 rows have a problem and are left out",
        "all of its splits are used: 1 train, 1 val",
    ]
    pq.write_table(pa.table({"path": ["a.mp4"], "problem": ["x"]}), tmp_path / "bad.parquet")
    assert "all 1 rows of" in problem(tmp_path / "bad.parquet")


def test_a_list_is_quick_to_open(tmp_path):
    """The rows of a list cost no look at their files: only the first has to be there."""
    touch(tmp_path, "0.mp4")
    lines = "".join(f"{n}.mp4,{n % 7}\n" for n in range(20_000))
    (tmp_path / "l.csv").write_text(f"path,label\n{lines}")
    source = open_source(str(tmp_path / "l.csv"), "video")
    assert np.array_equal(source.labels, np.arange(20_000) % 7)
