"""Captions as training reads them: cleaned, cut, drawn, and grouped by file."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from vistill.data import open_source
from vistill.data.caption_inputs import CaptionInputs
from vistill.data.captioned import CaptionedSource
from vistill.errors import UserError
from vistill.text_cleanup import clean
from vistill.tokenizing import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def vocabulary(tmp_path: Path) -> str:
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, "a", "red", "cell", "##s"]) + "\n")
    return str(tmp_path / "vocab.txt")


def test_sentences_are_cut_and_filled(vocabulary: str) -> None:
    tool = Tokenizer(vocabulary, 6)
    assert (tool.size, tool.special("[MASK]")) == (9, 4)
    short = tool("a red cells")
    assert short.ids.tolist() == [2, 5, 6, 7, 8, 3]
    assert short.mask.all()
    assert tool("a").ids.tolist() == [2, 5, 3, 0, 0, 0]
    assert tool("a").mask.tolist() == [True] * 3 + [False] * 3
    assert tool("a red cell a red cell").ids.tolist() == [2, 5, 6, 7, 5, 3]
    again = pickle.loads(pickle.dumps(tool))
    assert again("a red").ids.tolist() == tool("a red").ids.tolist()
    (Path(vocabulary).parent / "tokenizer.json").write_text(tool.json)
    of_folder = Tokenizer(str(Path(vocabulary).parent), 6)
    assert of_folder("red cells").ids.tolist() == tool("red cells").ids.tolist()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.txt", "there is no tokenizer nowhere.txt"),
        ("./nowhere", "there is no tokenizer"),
        ("EMPTY", "holds neither tokenizer.json nor vocab.txt"),
        ("BROKEN/tokenizer.json", "cannot be read"),
        ("BARE/vocab.txt", "has no token"),
    ],
)
def test_tokenizers_that_are_none(name: str, message: str, tmp_path: Path) -> None:
    for folder in ("EMPTY", "BROKEN", "BARE"):
        (tmp_path / folder).mkdir()
    (tmp_path / "BROKEN" / "tokenizer.json").write_text("{")
    (tmp_path / "BARE" / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\na\n")
    path = str(tmp_path / name) if name.isupper() or ("/" in name and name[0] != ".") else name
    with pytest.raises(UserError, match=message):
        Tokenizer(path, 8)


def listed(folder: Path, text: str, name: str = "list.csv"):
    for file in ("x", "y", "z"):
        (folder / f"{file}.png").write_bytes(b"no picture is read")
    (folder / name).write_text(text)
    return CaptionedSource(open_source(str(folder / name)))


def test_a_file_is_one_sample_with_all_its_captions(tmp_path: Path) -> None:
    source = listed(tmp_path, "image,caption\nx.png,one\ny.png,two\nx.png,three\nz.png,\n")
    assert [source.sample_name(i) for i in range(len(source))] == ["x.png", "y.png"]
    assert source.captions is not None
    assert [list(several) for several in source.captions] == [["one", "three"], ["two"]]
    assert source.place(1) == str(tmp_path / "y.png")
    assert "1 of 3 pictures have no caption and are left out, such as 'z.png'" in source.notes
    before = source.fingerprint()
    other = listed(tmp_path, "image,caption\nx.png,one\ny.png,two\nx.png,four\n")
    assert other.fingerprint() != before
    assert len(source.stamps()) == 2


def test_flickrs_captions_hold_commas_and_quotes(tmp_path: Path) -> None:
    source = listed(tmp_path, 'image,caption\nx.png,A man says "hi" , and leaves .\ny.png,b\n')
    assert source.captions is not None
    assert clean(source.captions[0][0]) == "a man says hi and leaves"


def test_published_lists(tmp_path: Path) -> None:
    text = '[{"image": "x.png", "caption": ["a", "b"]}, {"image": "y.png", "caption": "c"}]'
    source = listed(tmp_path, text, "list.json")
    assert source.captions is not None
    assert [list(several) for several in source.captions] == [["a", "b"], ["c"]]


def test_a_list_without_captions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of the 1 pictures of .* has a caption"):
        listed(tmp_path, "path,label\nx.png,a\n")


def test_a_caption_is_drawn_by_the_rows_generator(vocabulary: str, tmp_path: Path) -> None:
    source = listed(tmp_path, "image,caption\nx.png,A cell!\nx.png,red\ny.png,a CELL\n")
    inputs = CaptionInputs(Tokenizer(vocabulary, 5))
    drawn = [inputs(source, 0, np.random.default_rng(i)) for i in range(40)]
    assert {tuple(one["text"].tolist()) for one in drawn} == {(2, 5, 7, 3, 0), (2, 6, 3, 0, 0)}
    again = inputs(source, 0, np.random.default_rng(3))
    assert again["text"].tolist() == drawn[3]["text"].tolist()
    cell = next(one for one in drawn if one["text"][1] == 5)
    other = inputs(source, 1, np.random.default_rng(0))
    assert cell["sentence"] == other["sentence"]  # equal when cleaned
    assert other["text"].dtype == np.int64
    assert other["text_mask"].dtype == bool


def test_all_captions_as_one_text(vocabulary: str, tmp_path: Path) -> None:
    source = listed(tmp_path, "image,caption\nx.png,A red.\nx.png,cell!\n")
    inputs = CaptionInputs(Tokenizer(vocabulary, 6), joined=True)
    for seed in range(3):
        found = inputs(source, 0, np.random.default_rng(seed))
        assert found["text"].tolist() == [2, 5, 6, 7, 3, 0]


def test_a_folder_with_texts_beside_its_files(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(b"no picture is read")
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "c.txt").write_text("three")
    source = CaptionedSource(open_source(str(tmp_path)))
    assert [source.sample_name(i) for i in range(len(source))] == ["a.png", "c.png"]
    assert source.captions is not None
    assert [list(several) for several in source.captions] == [["one", "two"], ["three"]]
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match=r"c\.txt' cannot be read as text"):
        CaptionedSource(open_source(str(tmp_path)))


def test_shards_with_texts_and_fields(tmp_path: Path) -> None:
    import io
    import tarfile

    members = {
        "0001.png": b"picture", "0001.txt": b"one\ntwo\n",
        "0002.png": b"picture", "0002.json": b'{"caption": "three"}',
        "0003.png": b"picture", "0004.png": b"picture", "0004.json": b'{"captions": ["4", "5"]}',
    }  # fmt: skip
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    source = CaptionedSource(open_source(str(tmp_path / "a.tar")))
    assert source.captions is not None
    assert [list(several) for several in source.captions] == [["one", "two"], ["three"], ["4", "5"]]
    assert any("1 of 4 pictures have no caption" in note for note in source.notes)
    assert source.read(1) == b"picture"


def test_a_quote_that_is_never_closed_swallows_no_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds other pictures: close the quote"):
        listed(tmp_path, 'image,caption\nx.png,"Fast dog\ny.png,Two cats\nz.png,c"\n')


def test_a_file_with_and_without_captions_is_not_left_out(tmp_path: Path) -> None:
    source = listed(tmp_path, "image,caption\nx.png,\nx.png,one\ny.png,two\n")
    assert len(source) == 2
    assert not [note for note in source.notes if "left out" in note]
