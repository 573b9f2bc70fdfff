"""Lists tell captions, in every format alike."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vistill.data import open_source
from vistill.data.captions import Captions
from vistill.data.parts import PartSource
from vistill.errors import UserError

TOLD = [["a dog, brown", 'a "dog"'], [], ["ünï"], ["one", "two", "three"]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(4):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{i}.png")
    return tmp_path


def as_json(folder: Path, key: str, caption: str) -> Path:
    items = [{key: f"{i}.png", caption: told} for i, told in enumerate(TOLD)]
    (folder / "list.json").write_text(json.dumps(items))
    return folder / "list.json"


def as_json_lines(folder: Path, key: str, caption: str) -> Path:
    lines = [
        json.dumps({key: f"{i}.png", caption: told[0] if len(told) == 1 else told})
        for i, told in enumerate(TOLD)
    ]
    (folder / "list.jsonl").write_text("\n".join(lines))
    return folder / "list.jsonl"


def as_parquet(folder: Path, key: str, caption: str) -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({key: [f"{i}.png" for i in range(4)], caption: TOLD})
    pq.write_table(table, folder / "list.parquet")
    return folder / "list.parquet"


@pytest.mark.parametrize("caption", ["caption", "captions"])
@pytest.mark.parametrize("key", ["path", "media", "image"])
@pytest.mark.parametrize("write", [as_json, as_json_lines, as_parquet])
def test_several_captions_a_line(
    write: Callable[[Path, str, str], Path], key: str, caption: str, folder: Path
) -> None:
    source = open_source(str(write(folder, key, caption)))
    assert source.captions is not None
    assert [list(told) for told in source.captions] == TOLD
    assert [source.sample_name(i) for i in range(4)] == [f"{i}.png" for i in range(4)]
    assert source.notes == []
    assert source.labels is None


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t")])
def test_a_line_per_caption(ending: str, separator: str, folder: Path) -> None:
    lines = [separator.join(["image", "caption"])]
    lines += [separator.join(["0.png", '"a dog, ""brown"""']), separator.join(["0.png", "a dog"])]
    lines += [separator.join(["2.png", ""])]
    (folder / f"list.{ending}").write_text("\n".join(lines))
    source = open_source(str(folder / f"list.{ending}"))
    assert source.captions is not None
    assert [list(told) for told in source.captions] == [['a dog, "brown"'], ["a dog"], []]


def test_pictures_in_parquet(folder: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    images = [{"bytes": (folder / f"{i}.png").read_bytes(), "path": ""} for i in range(4)]
    pq.write_table(pa.table({"image": images, "caption": TOLD}), folder / "list.parquet")
    source = open_source(str(folder / "list.parquet"))
    assert source.captions is not None
    assert [list(told) for told in source.captions] == TOLD
    assert len(source.read(2)) > 0


def test_lists_without_captions_have_none(folder: Path) -> None:
    (folder / "list.csv").write_text("path,label\n0.png,a\n1.png,b\n")
    assert open_source(str(folder / "list.csv")).captions is None
    assert open_source(str(folder)).captions is None
    source = open_source(str(folder))
    parts = PartSource(source, np.arange(2), [None, None], np.zeros((2, 2), np.int64))
    assert parts.captions is None


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.json", "{", "is no JSON"),
        ("a.json", '{"path": "0.png"}', "is no list of objects"),
        ("a.json", '[{"path": "0.png"}, {"caption": "x"}]', "item 2 is no object with a field"),
        ("a.json", '["0.png"]', "item 1 is no object"),
        ("a.json", '[{"path": "0.png", "caption": 3}]', "item 1: a caption is a text"),
        ("a.jsonl", '{"path": "0.png", "caption": ["a", {}]}', "line 1: a caption is a text"),
        ("a.csv", "path,captoin\n0.png,x\n", "did you mean 'caption'"),
        ("a.csv", "path,caption,caption\n0.png,x,y\n", "2 columns 'caption'"),
        ("a.json", '[{"path": "9.png", "caption": "x"}]', "item 1 lists '9.png'"),
        ("a.json", "[]", "lists no pictures"),
    ],
)
def test_what_cannot_be_read_is_told(name: str, text: str, told: str, folder: Path) -> None:
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=told):
        open_source(str(folder / name))


def test_captions_are_a_sequence() -> None:
    captions = Captions(TOLD)
    assert [list(told) for told in captions] == TOLD
    assert [list(told) for told in captions[1:3]] == TOLD[1:3]
    with pytest.raises(IndexError):
        captions[4]


def test_a_mixture_tells_those_of_its_sources(folder: Path) -> None:
    from vistill.data.mixture import MixedSource

    told = open_source(str(as_json(folder, "image", "caption")))
    (folder / "silent.csv").write_text("path\n0.png\n1.png\n")
    silent = open_source(str(folder / "silent.csv"))
    mixed = MixedSource({"a": silent, "b": told})
    assert mixed.captions is not None
    assert [list(one) for one in mixed.captions] == [[], [], *TOLD]
    assert MixedSource({"a": silent}).captions is None
