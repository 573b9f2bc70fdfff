"""Sources: what is found, how it is named and labelled, and what a user is told."""

import csv
import io
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vistill.data import BrokenImage, open_source
from vistill.data.names import PackedNames
from vistill.data.source import encode_labels
from vistill.errors import UserError

CELLS = Path(__file__).parents[2] / "data" / "cells" / "train"


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def tree(root: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    return root


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def problem(path: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        open_source(str(path))
    return str(caught.value)


def test_folder_with_classes() -> None:
    source = open_source(str(CELLS))
    assert len(source) == 27
    assert source.classes == ["platelet", "red", "white"]
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    for i in range(len(source)):
        name = source.sample_name(i)
        assert source.classes[source.labels[i]] == name.split("/")[0]
        assert source.read(i) == (CELLS / name).read_bytes()


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["a/1.png", "b/2.png"], ["a", "b"]),
        (["a/1.png", "2.png"], None),
        (["a/1.png", "a/2.png"], None),
        (["train/a/1.png", "val/a/2.png"], None),
    ],
)
def test_when_a_tree_is_labelled(
    tmp_path: Path, names: list[str], classes: list[str] | None
) -> None:
    source = open_source(str(tree(tmp_path / "pictures", names)))
    assert len(source) == 2
    assert source.classes == classes
    assert (source.labels is None) == (classes is None)


def test_folder_takes_pictures_only(tmp_path: Path) -> None:
    tree(tmp_path, ["b.PNG", "deep/er/a.jpeg", ".hidden/c.png", "._d.png"])
    (tmp_path / "notes.txt").write_text("no")
    os.symlink(tmp_path, tmp_path / "deep" / "up")
    source = open_source(str(tmp_path))
    assert [source.sample_name(i) for i in range(len(source))] == ["b.PNG", "deep/er/a.jpeg"]


def test_fingerprint_sees_additions_and_renames(tmp_path: Path) -> None:
    tree(tmp_path, ["a.png", "b.png"])
    prints = [open_source(str(tmp_path)).fingerprint()]
    assert open_source(str(tmp_path)).fingerprint() == prints[0]
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    prints.append(open_source(str(tmp_path)).fingerprint())
    tree(tmp_path, ["d.png"])
    prints.append(open_source(str(tmp_path)).fingerprint())
    assert len(set(prints)) == 3
    assert prints[2].startswith("3 named")


def test_missing_and_empty(tmp_path: Path) -> None:
    tree(tmp_path / "pictures", ["a.png"])
    wrong = tmp_path / "picture"
    assert problem(wrong) == f"'{wrong}' does not exist; did you mean '{tmp_path / 'pictures'}'?"
    deep = tmp_path / "pcitures" / "train"
    assert f"did you mean '{tmp_path / 'pictures'}'?" in problem(deep)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert problem(empty).startswith(f"no picture in '{empty}' (looked for .jpg")
    (empty / "notes.md").write_text("no")
    assert problem(empty).endswith("it holds 1 other file: 1 .md ('notes.md')")
    assert "is not a folder, a .txt" in problem(empty / "notes.md")
    assert problem(tmp_path / "*.tar") == f"nothing matches '{tmp_path / '*.tar'}'"


def test_text_list(tmp_path: Path) -> None:
    tree(tmp_path / "sub", ["my cat.png", "b.png", "c.png"])
    rows = f"sub/my cat.png\n\nsub/b.png dog\n{tmp_path}/sub/c.png\tant\n"
    (tmp_path / "list.txt").write_text(rows)
    source = open_source(str(tmp_path / "list.txt"))
    assert source.classes == ["ant", "dog"]
    assert source.labels is not None
    assert source.labels.tolist() == [-1, 1, 0]
    assert source.read(0) == png(0)
    assert source.read(2) == png(2)


@pytest.mark.parametrize("header", ["label,path,extra\n", ""])
def test_csv_list(tmp_path: Path, header: str) -> None:
    tree(tmp_path, ["a,b.png", "c.png"])
    with (tmp_path / "list.csv").open("w", newline="") as file:
        file.write(header)
        for path, label in (("a,b.png", "10"), ("c.png", "9")):
            csv.writer(file).writerow([label, path, "x"] if header else [path, label])
    source = open_source(str(tmp_path / "list.csv"))
    assert source.classes == ["9", "10"]  # sorted as numbers
    assert source.labels is not None
    assert source.labels.tolist() == [1, 0]
    assert source.read(0) == png(0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.txt", "a.png\nb\n", "'{}' line 2 is neither a picture's path nor 'path label': 'b'"),
        ("l.txt", "\nz.png\n", "'{}' line 2 lists 'z.png', but there is no file '{dir}/z.png'"),
        ("l.txt", "\n", "'{}' lists no pictures"),
        ("l.csv", "path,label\na.png,1\na.png\n", "'{}' line 3 has 1 columns, not 2"),
        ("l.csv", "path\n \n", "'{}' line 2 has no path"),
        ("l.csv", "paths,label\na.png,1\n", "column 'path' (did you mean 'paths'?)"),
        ("l.csv", "a.png,1,2\n", "'{}' line 1 has 3 columns and no header"),
        ("l.csv", "path,label\n", "'{}' lists no pictures"),
    ],
)
def test_list_errors_name_file_and_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    tree(tmp_path, ["a.png"])
    path = tmp_path / name
    path.write_text(text)
    assert message.format(path, dir=tmp_path) in problem(path)


def test_later_missing_file_is_a_broken_picture(tmp_path: Path) -> None:
    tree(tmp_path, ["a.png"])
    (tmp_path / "l.txt").write_text("a.png\nb.png\n")
    source = open_source(str(tmp_path / "l.txt"))
    with pytest.raises(BrokenImage, match="No such file"):
        source.read(1)


def test_parquet_of_paths(tmp_path: Path) -> None:
    tree(tmp_path, ["a.png", "b.png"])
    pq.write_table(pa.table({"path": ["b.png", "a.png"], "label": [7, 3]}), tmp_path / "l.parquet")
    source = open_source(str(tmp_path / "l.parquet"))
    assert source.classes == ["3", "7"]
    assert source.read(0) == png(1)


@pytest.mark.parametrize("nested", [False, True])
def test_parquet_of_bytes(tmp_path: Path, nested: bool) -> None:
    cells = [{"bytes": png(i), "path": None} if nested else png(i) for i in range(3)]
    cells.append(None)  # type: ignore[arg-type]
    table = pa.table({"image": cells, "label": ["x", "y", None, "x"]})
    pq.write_table(table, tmp_path / "l.parquet", row_group_size=2)
    source = pickle.loads(pickle.dumps(open_source(str(tmp_path / "l.parquet"))))
    assert source.read(2) == png(2)
    assert source.labels.tolist() == [0, 1, -1, 0]
    with pytest.raises(BrokenImage, match="empty"):
        source.read(3)


def test_parquet_without_pictures(tmp_path: Path) -> None:
    pq.write_table(pa.table({"paht": ["a.png"]}), tmp_path / "l.parquet")
    assert "did you mean 'paht'?" in problem(tmp_path / "l.parquet")
    (tmp_path / "no.parquet").write_text("no")
    assert "is no Parquet file" in problem(tmp_path / "no.parquet")


def test_webdataset_shards(tmp_path: Path) -> None:
    for shard in range(2):
        members = {}
        for i in range(3):
            members[f"./{i}.a.png"] = png(10 * shard + i)  # the key ends at the first dot
            members[f"./{i}.cls"] = str(i + shard).encode()
            members[f"./{i}.json"] = b"{}"
        tar(tmp_path / f"shard-{shard}.tar", members)
    source = open_source(str(tmp_path / "shard-*.tar"))
    assert len(source) == 6
    assert source.sample_name(4) == "shard-1.tar/1.a.png"
    assert source.classes == ["0", "1", "2", "3"]
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 2, 1, 2, 3]
    assert [source.read(i) for i in (5, 0, 3)] == [png(12), png(0), png(10)]
    again = pickle.loads(pickle.dumps(source))
    assert again.read(5) == png(12)


def test_tar_of_folders(tmp_path: Path) -> None:
    members = {"cells/red/1.png": png(1), "cells/white/1.png": png(2), "cells/notes.md": b"x"}
    source = open_source(str(tar(tmp_path / "x.tar", members)))
    assert source.classes == ["red", "white"]


def test_tar_errors(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", {"a.png": png(0)})
    with tarfile.open(tmp_path / "y.tar.gz", "w:gz") as archive:
        archive.add(path, "x")
    message = "is a compressed tar, which cannot be read in random order; unpack it"
    assert message in problem(tmp_path / "y.tar.gz")
    shutil.copy(tmp_path / "y.tar.gz", tmp_path / "z.tar")
    assert message in problem(tmp_path / "z.tar")
    (tmp_path / "no.tar").write_bytes(b"no" * 1000)
    assert "is damaged or no tar" in problem(tmp_path / "no.tar")
    big = tar(tmp_path / "big.tar", {f"{i}.png": bytes(3000) for i in range(3)})
    big.write_bytes(big.read_bytes()[:5000])
    assert "is damaged or no tar" in problem(big)
    assert "1 other file: 1 .md ('a.md')" in problem(tar(tmp_path / "n.tar", {"a.md": b"x"}))


def test_zip(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for method, name in ((zipfile.ZIP_STORED, "a"), (zipfile.ZIP_DEFLATED, "b")):
            for split in ("train", "test"):
                data = png(0) if name == "a" else bytes(5000)
                archive.writestr(f"set/{split}/{name}/1.png", data, method)
        archive.writestr("__MACOSX/set/._1.png", b"x")
        archive.writestr("set/notes.md", b"x")
    source = open_source(str(path))
    assert len(source) == 4
    assert source.classes is None
    part = pickle.loads(pickle.dumps(open_source(f"{path}/set/train")))
    assert part.classes == ["a", "b"]
    assert part.sample_name(1) == "b/1.png"
    assert part.read(0) == png(0)
    assert part.read(1) == bytes(5000)
    assert problem(f"{path}/set/valid") == (
        f"'{path}' holds no folder 'set/valid'; did you mean '{path}/set/train'?"
    )
    assert source.notes == ["passed over 1 other file: 1 .md ('set/notes.md')"]
    assert part.notes == []


def test_zip_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.png", png(0))
    assert "unpack it and give the folder" in problem(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"picture" * 99)
    data = bytearray(path.read_bytes())
    data[data.index(b"picture")] ^= 1
    path.write_bytes(data)
    with pytest.raises(BrokenImage, match="checksum"):
        open_source(str(path)).read(0)
    path.write_bytes(data[:-30])
    assert "is damaged or no zip" in problem(path)


@given(st.lists(st.text(st.characters(codec="utf-8"))))
def test_packed_names_are_a_list(names: list[str]) -> None:
    packed = PackedNames(names)
    assert list(packed) == names
    assert pickle.loads(pickle.dumps(packed)).digest() == packed.digest()


@given(st.lists(st.one_of(st.none(), st.text(max_size=2))))
def test_labels_decode_to_their_names(values: list[str | None]) -> None:
    classes, labels = encode_labels(values)
    if not any(values):
        assert classes is None
        assert labels is None
        return
    assert classes is not None
    assert labels is not None
    names = [*classes, None]
    assert [names[label] or None for label in labels] == [value or None for value in values]


@pytest.mark.parametrize("none", ["-1", "nan", "NaN", "-1.0", "", None])
def test_what_is_no_class(none: str | None) -> None:
    classes, labels = encode_labels(["10", none, "9"])
    assert classes == ["9", "10"]
    assert labels is not None
    assert labels.tolist() == [1, -1, 0]
