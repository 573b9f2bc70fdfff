"""What is read in blocks says the same as what is read one by one."""

import io
import os
import random
import tarfile

import numpy as np
import pytest

from vistill.data import lines, open_source
from vistill.data.names import (
    BLOCK,
    Coded,
    NamePacker,
    PackedNames,
    common_folders,
    different,
    have_ending,
)
from vistill.data.passed_over import PassedOver
from vistill.data.source import CLIPS, PICTURES, Unlabelled, folder_classes
from vistill.data.tar_members import _others, tar_members
from vistill.errors import UserError

PIECES = ["a.jpg", "b/c.PNG", "ü/é.jpeg", ".hidden.jpg", "x/.y.jpg", "__MACOSX/a.jpg", "a b.jpg",
          "a__Mb.jpg", "..jpg", "jpg", "a.jpg.txt", "x.mp4", "a.JPG", "日本.webp", "k\u00a0.jpg",
          "a.jp2", "x/", "a.jpg/b", "n0/1.gif"]  # fmt: skip
WORDS = [
    "",
    "",
    "cat",
    "dog ",
    " 3",
    "-1",
    "nan",
    "two words",
    "ü",
    "a.jpg",
    "a.b",
    "\u00a0",
    "1 2",
]


def said(path, media="image", root=None):
    """All that a list says, or the error."""
    try:
        source = open_source(str(path), media, root=root)
    except UserError as error:
        return str(error)
    labels = None if source.labels is None else source.labels.tolist()
    spans = [source.span(i) for i in range(len(source))]
    return list(source.names), labels, source.classes, source.notes, source.unlabelled, spans


@pytest.mark.slow
@pytest.mark.parametrize("media", ["image", "video"])
@pytest.mark.parametrize("ending", [".txt", ".csv", ".tsv"])
def test_lists_in_blocks_say_what_their_lines_say(tmp_path, monkeypatch, ending, media):
    choose = random.Random(f"{ending}{media}")
    monkeypatch.setattr(lines, "_BLOCK", 256)
    first = "first.jpg" if media == "image" else "first.mp4"
    (tmp_path / first).touch()
    between = {".txt": " ", ".csv": ",", ".tsv": "\t"}[ending]
    outcomes = set()
    for number in range(120):
        odd = choose.random() < 0.5
        pieces = PIECES if odd else [first, f"a/{first}", f"b/c.{first}"]
        rows = [first + between + "dog"]
        for _ in range(choose.randrange(1, 60)):
            row = [choose.choice(pieces)]
            row += [choose.choice(WORDS if odd else ["dog", "cat", "7"])]
            rows.append(between.join(row) if choose.random() < (0.97 if odd else 1) else row[0])
            rows += [""] * (choose.random() < 0.1)
        if ending != ".txt" and choose.random() < 0.5:
            head = choose.choice(["path,label", "Path , Label", "label,path"])
            rows.insert(0, head.replace(",", between))
            if head == "label,path":
                rows[1] = f"dog{between}{first}"
        text = choose.choice(["", "\ufeff"]) + choose.choice(["\n", "\r\n", "\r"]).join(rows)
        path = tmp_path / f"{number}{ending}"
        path.write_bytes((text + choose.choice(["", "\n"])).encode())
        found = said(path, media)
        with monkeypatch.context() as slow:
            slow.setattr(lines, "_bare", lambda text, starts, ends: np.zeros(len(starts), bool))
            assert found == said(path, media), text
        outcomes.add(type(found))
    assert outcomes == {str, tuple}


def test_a_list_that_is_not_text_is_named(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "list.txt").write_bytes(b"a.jpg\nb\xff.jpg\n")
    with pytest.raises(UserError, match=r"list.txt' cannot be read as text"):
        open_source(str(tmp_path / "list.txt"))


def test_endings_are_found_only_where_they_are():
    names = [*PIECES, "", ".jpg", "a.mp4", "a.ts", "deep/er/é.MKV", "a.jpgx", "a/b.qt", "__M/a.jpg"]
    text, ends = PackedNames(names).arrays
    for media in (PICTURES, CLIPS):
        sure = have_ending(text, ends[:-1], ends[1:], media.suffixes)
        assert all(media.holds(name) for name, hit in zip(names, sure, strict=True) if hit)
        missed = [n for n, hit in zip(names, sure, strict=True) if media.holds(n) and not hit]
        assert set(missed) <= {"a__Mb.jpg", "__M/a.jpg"}


def test_classes_of_many_folders_are_those_of_each_name():
    choose = random.Random(0)
    for skip in (0, 2):
        names = [f"{'x/'[:skip]}{choose.choice('abü')}{choose.randrange(9)}/{i}.jpg"
                 for i in range(BLOCK + 100)]  # fmt: skip
        found = folder_classes(PackedNames(names), skip)
        assert isinstance(found, Coded)
        assert [found.texts[n] for n in found.codes] == [n[skip:].partition("/")[0] for n in names]
    told = folder_classes(PackedNames([*names, "x/c/d/e.jpg", "x/loose.jpg"]), 2)
    assert isinstance(told, Unlabelled)
    assert told.reason.startswith("'loose.jpg' lies beside the folders")
    told = folder_classes(PackedNames([*names, "x/c/d/e.jpg", "x/c/f/e.jpg"]), 2)
    assert isinstance(told, Unlabelled)
    assert told.reason.startswith("'c/d/e.jpg' and 1 other lie in a folder inside a folder")


@pytest.mark.parametrize(
    ("names", "shared"),
    [
        (["a/b/1", "a/b/c/2"], "a/b/"),
        (["a/b/1", "a/bc/2"], "a/"),
        (["a/1", "b/1"], ""),
        (["1", "a/2"], ""),
        (["a/b/1"], "a/b/"),
    ],
)
def test_the_folders_of_all_are_found(names, shared):
    assert common_folders(PackedNames(names)) == len(shared)


def test_packed_names_come_back():
    packer = NamePacker()
    packer.add("ü/1")
    packer.add_all(["a", "", "é"], "x/")
    text, ends = PackedNames(["p", "", "ü"]).arrays
    packer.add_block(text, ends[1:], b"f/")
    packer.add_all([])
    names = packer.names()
    assert list(names) == ["ü/1", "x/a", "x/", "x/é", "f/p", "f/", "f/ü"]
    assert [names[i] for i in range(len(names))] == list(names)


def test_labels_are_kept_as_numbers():
    coded = Coded(["b", None, "b"])
    coded.add_block(["a", "b", None], np.array([2, 0, 1, 1]))
    coded.add_same("a", 2)
    values = [coded.texts[n] for n in coded.codes]
    assert values == ["b", None, "b", None, "a", "b", "b", "a", "a"]
    assert coded.counts() == {"b": 4, None: 2, "a": 3}
    text = np.frombuffer(b"aabbab", np.uint8)
    starts = np.array([0, 1, 0, 2, 2, 6])
    told, codes = different(text, starts, np.array([1, 2, 2, 3, 4, 6]))
    assert [told[n] for n in codes] == [b"a", b"a", b"aa", b"b", b"bb", b""]


def _tar(path, form, choose):
    """An archive with all that may be in one."""
    with tarfile.open(path, "w", format=form) as archive:
        for i in range(choose.randrange(1, 60)):
            name = (
                choose.choice(["", "./", "d/", "ü/", "l" * 90 + "/", "m" * 120 + "/"]) + f"{i}.jpg"
            )
            info = tarfile.TarInfo(name)
            info.size = choose.choice([0, 1, 511, 512, 513, 5000])
            info.mtime = choose.choice([0, 1.5])
            info.type = choose.choice([tarfile.REGTYPE] * 20 + [tarfile.AREGTYPE, tarfile.DIRTYPE])
            if choose.random() < 0.02:
                info.type, info.linkname = tarfile.SYMTYPE, "d"
            if info.type in (tarfile.DIRTYPE, tarfile.SYMTYPE):
                info.size = 0
            archive.addfile(info, io.BytesIO(bytes(info.size)))


def _read(read):
    found = []
    try:
        for member in read:
            found.append(member)
    except (tarfile.TarError, UserError) as error:
        return found, str(error).rpartition(": ")[2]
    return found, None


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_headers_are_read_as_pythons_module_reads_them(tmp_path, form, monkeypatch):
    monkeypatch.setattr("vistill.data.tar_members._TOGETHER", 8)
    choose, path = random.Random(form), tmp_path / "a.tar"
    for number in range(60):
        _tar(path, form, choose)
        data = bytearray(path.read_bytes())
        if number % 3 == 1:
            data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
        elif number % 3 == 2:
            del data[choose.randrange(1, len(data)) :]
        path.write_bytes(data)
        ours, theirs = PassedOver(PICTURES), PassedOver(PICTURES)
        with open(path, "rb") as raw:
            expected, wrong = _read(_others(raw, theirs))
        found, told = _read(tar_members(path, ours))
        assert told == wrong
        assert found == (expected if told is None else expected[: len(found)])
        assert ours.notes() == theirs.notes()


def test_a_shard_is_not_read_by_pythons_module(tmp_path, monkeypatch):
    """But for its end."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for i in range(3000):
            info = tarfile.TarInfo(f"{i}.jpg")
            info.mtime = 1.5
            archive.addfile(info)
    heads = []
    real = tarfile.TarInfo.frombuf.__func__
    monkeypatch.setattr(
        tarfile.TarInfo,
        "frombuf",
        classmethod(lambda cls, *args: heads.append(1) or real(cls, *args)),
    )
    assert [name for name, _, _ in tar_members(path)] == [f"{i}.jpg" for i in range(3000)]
    assert len(heads) <= 2


def test_a_folder_is_walked_in_order(tmp_path):
    names = [
        "b.jpg",
        "a/z.jpg",
        "a/b/c.JPEG",
        "a.jpg",
        "a/y.png",
        "c/ü.webp",
        "c/.x.jpg",
        "c/n.txt",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    os.symlink(tmp_path / "a", tmp_path / "link")
    os.symlink(tmp_path, tmp_path / "c/loop")
    os.symlink(tmp_path / "nowhere", tmp_path / "c/gone.jpg")
    source = open_source(str(tmp_path))
    assert list(source.names) == [
        "a/b/c.JPEG", "a/y.png", "a/z.jpg", "a.jpg", "b.jpg", "c/gone.jpg", "c/ü.webp",
        "link/b/c.JPEG", "link/y.png", "link/z.jpg",
    ]  # fmt: skip
    assert source.notes == [
        "passed over 1 other file: 1 .txt ('c/n.txt')",
        "passed over a circular link: c/loop",
    ]
