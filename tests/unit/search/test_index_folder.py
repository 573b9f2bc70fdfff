"""An index is whole or the one before; whatever befalls its files is told in one sentence."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vistill.data.names import PackedNames
from vistill.data.source import Stretch
from vistill.errors import UserError
from vistill.search.index_folder import (
    EntriesList,
    MadeWith,
    Told,
    read_index,
    rows_of,
    write_index,
)

TOLD = Told("m", MadeWith("w", {"size": 32}), "/data", None, "clip", "/data", (2.0, 1.0), False)


def written(folder: Path, count: int = 5) -> None:
    entries = EntriesList()
    for i in range(count):
        span = None if i == 0 else Stretch(i, i + 2.5, "frames" if i == 1 else "s")
        entries.add(f"a/ü{i}\udcff.mp4", span, (i, 2**60 + i))
    values = np.random.default_rng(count).standard_normal((count, 4)).astype(np.float32)
    write_index(folder, TOLD, entries.packed(), iter([values[:2], values[2:]]), 4)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written(tmp_path)
    index = read_index(tmp_path)
    assert index.told == TOLD
    assert isinstance(index.embeddings, np.memmap)
    np.testing.assert_allclose(np.linalg.norm(index.embeddings, axis=1), 1, atol=1e-6)
    assert list(index.entries.files) == [f"a/ü{i}\udcff.mp4" for i in range(5)]
    assert index.entries.span(0) is None
    assert index.entries.span(1) == Stretch(1, 3.5, "frames")
    assert index.entries.span(4) == Stretch(4, 6.5)
    assert index.entries.stamps[3].tolist() == [3, 2**60 + 3]


def test_a_new_index_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    written(tmp_path)
    before = read_index(tmp_path)
    written(tmp_path, 7)
    assert len(read_index(tmp_path).entries) == 7
    assert before.embeddings.shape == (5, 4)  # who has it open goes on reading it
    assert len(list(tmp_path.iterdir())) == 3


def test_a_writer_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    written(tmp_path)

    def rows() -> Iterator[np.ndarray]:
        yield np.ones((1, 4))
        raise OSError("the disk is gone")

    entries = EntriesList()
    for i in range(2):
        entries.add(str(i), None, (0, 0))
    with pytest.raises(OSError, match="gone"):
        write_index(tmp_path, TOLD, entries.packed(), rows(), 4)
    assert len(read_index(tmp_path).entries) == 5
    with pytest.raises(UserError, match="no finite embedding of 1, so nothing was written"):
        write_index(
            tmp_path, TOLD, entries.packed(), iter([np.array([[1.0] * 4, [np.nan] * 4])]), 4
        )
    assert len(read_index(tmp_path).entries) == 5
    written(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3  # nothing is left of either


def test_rows_are_kept_or_new() -> None:
    class Before:
        embeddings = np.arange(8, dtype=np.float32).reshape(4, 2)

    new = np.array([[-1.0, -2.0], [-3.0, -4.0]])
    (block,) = rows_of(Before(), np.array([3, -1, 0, -1]), new, np.array([-1, 1, -1, 0]))  # type: ignore[arg-type]
    assert block.tolist() == [[6, 7], [-3, -4], [0, 1], [-1, -2]]


@pytest.mark.parametrize("part", ["embeddings", "entries", "index"])
@pytest.mark.parametrize("how", ["missing", "empty", "half", "other"])
def test_damage_is_told(part: str, how: str, tmp_path: Path) -> None:
    written(tmp_path)
    (file,) = tmp_path.glob(f"{part}*")
    if how == "missing":
        file.unlink()
    else:
        content = file.read_bytes()
        bad = {"empty": b"", "half": content[: len(content) // 2], "other": b"\0\1 else" * 50}
        file.write_bytes(bad[how])
    with pytest.raises(UserError) as told:
        read_index(tmp_path)
    expected = "holds no index" if (part, how) == ("index", "missing") else "is damaged ("
    assert expected in str(told.value)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("format", 9, "of format 9"),
        ("shape", [4, 4], "damaged"),
        ("shape", 3, "damaged"),
        ("made_with", {}, "damaged"),
        ("generation", "../x", "damaged"),
    ],
)
def test_a_strange_description_is_told(key: str, value: object, told: str, tmp_path: Path) -> None:
    written(tmp_path)
    content = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(content | {key: value}))
    with pytest.raises(UserError, match=told):
        read_index(tmp_path)


def test_names_come_back_from_their_bytes() -> None:
    names = PackedNames(["a", "", "ü/b"])
    assert list(PackedNames.of(*names.arrays)) == ["a", "", "ü/b"]
    text, ends = names.arrays
    for wrong in (ends[:-1], ends[::-1], ends.astype(np.int32), ends + 1):
        with pytest.raises(ValueError, match="ends"):
            PackedNames.of(text, wrong)
