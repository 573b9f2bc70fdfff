"""Where labels come from, why they are missing, and that none takes another's place."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vistill.data import Source, open_source
from vistill.errors import UserError
from vistill.evaluation.labelled import labelled_parts


def zipped(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return path


def shard(path: Path, members: list[tuple[str, str]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, text in members:
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def pictures(path: Path, *names: str) -> Source:
    """A folder of these."""
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"x")
    return open_source(str(path))


def told(source: Source) -> dict[str, str | None]:
    """The class of every sample."""
    if source.labels is None or source.classes is None:
        return {source.sample_name(i): None for i in range(len(source))}
    names = [*source.classes, None]
    return {source.sample_name(i): names[source.labels[i]] for i in range(len(source))}


@pytest.mark.parametrize(
    ("names", "reason", "meant"),
    [
        (["a.png", "b.png"], "none of its files lies in a folder of its class", False),
        (["x/a.png", "x/b.png"], "all its files lie in one folder, 'x'", False),
        (
            ["x/a.png", "y/b.png", "stray.png"],
            "'stray.png' lies beside the folders: move it into a folder of one class, or away",
            True,
        ),
        (
            ["x/a.png", "y/b.png", "s.png", "t.png", "u.png"],
            "'s.png' and 2 others lie beside the folders: move them into a folder of one class, or "
            "away",
            True,
        ),
        (
            ["x/a.png", "y/deep/b.png"],
            "'y/deep/b.png' lies in a folder inside a folder, and a class is a folder with nothing "
            "but files in it: move its files up, or give the folder above the classes",
            True,
        ),
        (["train/x/a.png", "val/y/b.png"], "its folders are parts (train, val): give one", True),
        (["train/a.png", "test/b.png"], "its folders are parts (test, train): give one", True),
        (
            ["set/x/a.png", "set/y/b.png"],
            "all its files lie in one folder, 'set': give that folder, 'set'",
            True,
        ),
    ],
)
def test_the_reason_why_there_are_no_labels(
    tmp_path: Path, names: list[str], reason: str, meant: bool
) -> None:
    source = pictures(tmp_path / "set", *names)
    assert source.labels is None
    assert source.unlabelled == (reason, meant)
    with pytest.raises(UserError) as caught:
        labelled_parts(source, None)
    assert str(caught.value).endswith(f"label column; {reason}")


def test_backslashes_in_a_zip_are_slashes(tmp_path: Path) -> None:
    path = zipped(tmp_path / "w.zip", ["set\\a\\1.png", "set\\b\\2.png", "set\\b\\"])
    source = open_source(str(path))
    assert told(source) == {"set/a/1.png": "a", "set/b/2.png": "b"}
    assert source.read(1) == b"x"
    assert told(open_source(f"{path}/set/a")) == {"1.png": None}


@pytest.mark.parametrize("part", ["cls", "json"])
def test_labels_do_not_overwrite_one_another(tmp_path: Path, part: str) -> None:
    """`1.1.jpg` and `1.7.jpg` share WebDataset's key, `1`."""
    members = [
        ("1.1.jpg", ""),
        (f"1.1.{part}", json.dumps("a") if part == "json" else "a"),
        (f"1.7.{part}", json.dumps("b") if part == "json" else "b"),
        ("1.7.jpg", ""),
        ("1.7.seg.png", ""),
        ("d.x/2.left.jpg", ""),
        ("d.x/2.right.jpg", ""),
        (f"d.x/2.{part}", json.dumps("c") if part == "json" else "c"),
        ("3.jpg", ""),
        (f"3.info.{part}", json.dumps("d") if part == "json" else "d"),
    ]
    found = told(open_source(str(shard(tmp_path / "s.tar", members))))
    assert found == {
        "1.1.jpg": "a",
        "1.7.jpg": "b",
        "1.7.seg.png": "b",
        "d.x/2.left.jpg": "c",
        "d.x/2.right.jpg": "c",
        "3.jpg": "d",
    }


@pytest.mark.parametrize("sample", ["1.jpg", "1.3.jpg"])
def test_two_labels_for_one_sample_are_an_error_that_names_both(
    tmp_path: Path, sample: str
) -> None:
    path = shard(tmp_path / "s.tar", [(sample, ""), ("1.1.cls", "a"), ("1.7.cls", "b")])
    with pytest.raises(UserError) as caught:
        open_source(str(path))
    assert str(caught.value) == (
        f"'{path}' tells two classes for '{sample}': '1.1' is of class 'a' and '1.7' of class "
        "'b'; name the label like the sample"
    )
    shard(path, [(sample, ""), ("1.1.cls", "a"), ("1.7.cls", "a")])
    assert told(open_source(str(path))) == {sample: "a"}
    shard(path, [("1.jpg", ""), ("1.cls", "a"), ("1.cls", "b")])
    with pytest.raises(UserError, match=r"'1.cls' twice, with the classes 'a' and 'b'"):
        open_source(str(path))


def test_the_same_key_in_other_shards_is_another_sample(tmp_path: Path) -> None:
    for number, label in enumerate("ab"):
        shard(tmp_path / f"{number}.tar", [("1.jpg", ""), ("1.cls", label)])
    found = told(open_source(str(tmp_path / "*.tar")))
    assert found == {"0.tar/1.jpg": "a", "1.tar/1.jpg": "b"}


def captions(kind: str, texts: list[str]) -> list[tuple[str, str]]:
    return [
        (name, text)
        for number, told in enumerate(texts)
        for name, text in ((f"{number}.jpg", ""), (f"{number}{kind}", told))
    ]


@pytest.mark.parametrize(
    ("kind", "texts", "labels", "note"),
    [
        (".cls", ["3", "-1", "nan", "3"], ["3", None, None, "3"], None),
        (".txt", ["a b", "c", "c", "a b"], ["a b", "c", "c", "a b"], "from the .txt members: 2"),
        (".txt", ["a dog runs", "a cat", "two", "two"], [None] * 4, "4 other files: 4 .txt"),
        (".txt", ["x" * 300, "y" * 300] * 2, [None] * 4, "4 other files: 4 .txt"),
        (
            ".json",
            ['{"label": 7, "url": "u"}', '{"class": "b"}', '{"cls": "7"}', '{"caption": "c"}'],
            ["7", "b", "7", None],
            "from the .json members: 2 classes for 3 of 4 pictures",
        ),
        (".json", ["5", '"b"', "true", "[1]"], ["5", "b", None, None], "from the .json members"),
        (".json", ['{"caption": "c"}', "no", "{}", "null"], [None] * 4, "4 other files: 4 .json"),
    ],
)
def test_members_that_may_hold_labels(
    tmp_path: Path, kind: str, texts: list[str], labels: list[str | None], note: str | None
) -> None:
    source = open_source(str(shard(tmp_path / "s.tar", captions(kind, texts))))
    assert list(told(source).values()) == labels
    assert (note or "") in "".join(source.notes)
    assert bool(source.notes) == (note is not None)


def test_the_nearest_kind_decides_for_all(tmp_path: Path) -> None:
    members = [("1.jpg", ""), ("1.json", '{"label": 1}'), ("1.cls", "2"), ("2.jpg", ""),
               ("2.json", '{"label": 3}'), ("2.txt", "a"), ("1.txt", "a")]  # fmt: skip
    source = open_source(str(shard(tmp_path / "s.tar", members)))
    assert told(source) == {"1.jpg": "2", "2.jpg": None}
    assert source.notes == ["passed over 4 other files: 2 .json ('1.json', …), 2 .txt ('2.txt', …)"]


def test_folders_named_like_no_class_are_classes(tmp_path: Path) -> None:
    assert pictures(tmp_path, "nan/a.png", "-1/b.png").classes == ["-1", "nan"]


def test_labels_of_a_list_that_are_none(tmp_path: Path) -> None:
    pictures(tmp_path / "x", "a.png", "b.png", "c.png", "d.png")
    (tmp_path / "l.csv").write_text("path,label\nx/a.png,-1\nx/b.png,NaN\nx/c.png,0\nx/d.png,1\n")
    source = open_source(str(tmp_path / "l.csv"))
    assert source.classes == ["0", "1"]
    np.testing.assert_array_equal(source.labels, [-1, -1, 0, 1])
