"""Samples that were replaced under their old names are noticed, in every kind of source."""

import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vistill.data import Source, open_source
from vistill.data.stamps import STAMPS, Changed, changed, names, read_stamps, write_stamps
from vistill.errors import UserError

NAMES = ["a.jpg", "b.jpg", "c.jpg"]


def written(root: Path, contents: dict[str, bytes], when: int = 1_000_000_000) -> Path:
    root.mkdir(exist_ok=True)
    for name, content in contents.items():
        (root / name).write_bytes(content)
        os.utime(root / name, (when, when))
    return root


def as_folder(root: Path) -> Source:
    return open_source(str(root))


def as_clips(root: Path) -> Source:
    for name in NAMES:
        (root / name).rename(root / f"{name}.mp4")
    return open_source(str(root), "video")


def as_list(root: Path) -> Source:
    (root / "l.txt").write_text("\n".join(NAMES))
    return open_source(str(root / "l.txt"))


def as_tar(root: Path) -> Source:
    with tarfile.open(root / "s.tar", "w") as archive:
        for name in NAMES:
            archive.add(root / name, name)
    os.utime(root / "s.tar", ns=(0, os.stat(root / "a.jpg").st_mtime_ns))
    return open_source(str(root / "s.tar"))


def as_zip(root: Path) -> Source:
    with zipfile.ZipFile(root / "p.zip", "w") as archive:
        for name in NAMES:
            archive.write(root / name, name)
    return open_source(str(root / "p.zip"))


def as_parquet(root: Path) -> Source:
    cells = [(root / name).read_bytes() for name in NAMES]
    pq.write_table(pa.table({"image": cells}), root / "p.parquet")
    return open_source(str(root / "p.parquet"))


KINDS: dict[str, Callable[[Path], Source]] = {
    "folder": as_folder, "clips": as_clips, "list": as_list, "tar": as_tar, "zip": as_zip,
    "parquet": as_parquet,
}  # fmt: skip
OLD = {"a.jpg": b"old", "b.jpg": b"bbb", "c.jpg": b"ccc"}


def difference(kind: str, tmp_path: Path, new: dict[str, bytes], when: int) -> Changed:
    before = KINDS[kind](written(tmp_path / "x", OLD)).stamps()
    shutil.rmtree(tmp_path / "x")
    now = KINDS[kind](written(tmp_path / "x", OLD))
    np.testing.assert_array_equal(now.stamps(), before)
    assert now.stamps().shape == (3, 2)
    shutil.rmtree(tmp_path / "x")
    now = KINDS[kind](written(written(tmp_path / "x", OLD), new, when))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(now)).stamps(), now.stamps())
    return changed(before, now.stamps())


@pytest.mark.parametrize("kind", KINDS)
def test_another_size_is_noticed(kind: str, tmp_path: Path) -> None:
    surely, perhaps = difference(kind, tmp_path, {"b.jpg": b"longer"}, when=1_000_000_000)
    assert surely.tolist() == [1]
    assert perhaps.tolist() == []


@pytest.mark.parametrize("kind", KINDS)
def test_another_content_of_the_same_size_is_noticed(kind: str, tmp_path: Path) -> None:
    surely, perhaps = difference(kind, tmp_path, {"a.jpg": b"new"}, when=2_000_000_000)
    if kind in ("zip", "parquet"):  # which have checksums
        assert (surely.tolist(), perhaps.tolist()) == ([0], [])
    else:
        assert surely.tolist() == []
        assert perhaps.tolist() == ([0, 1, 2] if kind == "tar" else [0])


@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_not_surely_others(kind: str, tmp_path: Path) -> None:
    surely, perhaps = difference(kind, tmp_path, OLD, when=2_000_000_000)
    assert surely.tolist() == []
    assert perhaps.tolist() == ([] if kind in ("zip", "parquet") else [0, 1, 2])


def test_a_folder_of_frames_differs_with_any_frame(tmp_path: Path) -> None:
    for clip in "ab":
        written(tmp_path / clip, {f"{i:03}.jpg": b"frame" for i in range(3)})
    source = open_source(str(tmp_path), "video")
    before = source.stamps()
    written(tmp_path / "b", {"001.jpg": b"other"}, when=2_000_000_000)
    assert changed(before, source.stamps()).perhaps.tolist() == [1]
    written(tmp_path / "a", {"001.jpg": b"longer"})
    assert changed(before, source.stamps()).surely.tolist() == [0]


def test_a_file_that_is_gone_differs(tmp_path: Path) -> None:
    source = as_list(written(tmp_path / "x", OLD))
    before = source.stamps()
    (tmp_path / "x" / "c.jpg").unlink()
    assert changed(before, source.stamps()).surely.tolist() == [2]


def test_they_are_kept_and_damage_is_told(tmp_path: Path) -> None:
    stamps = np.arange(6, dtype=np.int64).reshape(3, 2)
    assert read_stamps(tmp_path, 3) is None
    write_stamps(tmp_path, stamps)
    np.testing.assert_array_equal(read_stamps(tmp_path, 3), stamps)
    with pytest.raises(UserError, match=r"stamps.npy is damaged \(shape"):
        read_stamps(tmp_path, 4)
    for content in (b"", b"no", (tmp_path / STAMPS).read_bytes()[:-4], pickle.dumps([stamps])):
        (tmp_path / STAMPS).write_bytes(content)
        with pytest.raises(UserError, match=r"is damaged .*; delete it"):
            read_stamps(tmp_path, 3)


def test_the_first_are_named(tmp_path: Path) -> None:
    source = as_folder(written(tmp_path / "x", {f"{i}.jpg": b"" for i in range(6)}))
    assert names(source, np.arange(3)) == "0.jpg, 1.jpg, 2.jpg"
    assert names(source, np.arange(6)) == "0.jpg, 1.jpg, 2.jpg and 3 more"
