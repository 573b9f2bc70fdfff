"""What a place holds besides pictures or clips is counted, named and explained."""

import io
import os
import socket
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from vistill.data import BrokenImage, open_source
from vistill.data.folder import FolderSource
from vistill.data.passed_over import PassedOver
from vistill.data.source import CLIPS, HEIF_SUFFIXES, PICTURES
from vistill.errors import UserError

NAMES = ["a.jpg", *(f"{i}.JXL" for i in range(3)), "b/notes.md", "c.dng", "README", ".hidden.md"]


def folder(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def tar(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
    return path


def zipped(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return path


def places(tmp_path: Path, names: list[str]) -> list[Path]:
    return [
        folder(tmp_path / "folder", names),
        tar(tmp_path / "s.tar", names),
        zipped(tmp_path / "p.zip", names),
    ]


def problem(path: Path | str, media: str = "image") -> str:
    with pytest.raises(UserError) as caught:
        open_source(str(path), media)  # type: ignore[arg-type]
    return str(caught.value)


def test_other_files_are_counted_by_ending(tmp_path: Path) -> None:
    for place in places(tmp_path, NAMES):
        assert open_source(str(place)).notes == [
            "passed over 6 other files: 3 .jxl ('0.JXL', …), 1 .dng ('c.dng'), "
            "1 .md ('b/notes.md'), 1 without an ending ('README'); to use .dng, .jxl convert them "
            "to .jpg, .png or .tif"
        ]


def test_heic_names_its_decoder_where_it_is_not_installed(tmp_path: Path) -> None:
    for installed in (False, True):
        suffixes = PICTURES.suffixes - HEIF_SUFFIXES | (HEIF_SUFFIXES if installed else set())
        media = replace(PICTURES, suffixes=suffixes)
        passed = PassedOver(media)
        FolderSource(
            folder(tmp_path / str(installed), ["a.jpg", "b.HEIC", "c.heif"]), media, passed
        )
        assert passed.notes() == (
            []
            if installed
            else [
                "passed over 2 other files: 1 .heic ('b.HEIC'), 1 .heif ('c.heif'); for .heic, "
                ".heif install a decoder: pip install pillow-heif"
            ]
        )


def test_nothing_is_said_where_nothing_is_left_out(tmp_path: Path) -> None:
    for place in places(tmp_path, ["a.jpg", "b.png", ".DS_Store", "__MACOSX/._a.jpg"][:3]):
        assert open_source(str(place)).notes == []


def test_many_endings_are_not_all_listed(tmp_path: Path) -> None:
    place = folder(tmp_path / "x", ["a.jpg", *(f"{i}.e{i}" for i in range(9))])
    (note,) = open_source(str(place)).notes
    assert "passed over 9 other files" in note
    assert note.endswith("1 .e4 ('4.e4'), 4 others")


def test_files_of_the_other_kind_tell_the_setting(tmp_path: Path) -> None:
    place = folder(tmp_path / "x", ["a.jpg", "b.MTS", "c.h264"])
    assert "1 .mts ('b.MTS')" in open_source(str(place)).notes[0]
    assert open_source(str(place)).notes[0].endswith("such as data.frames=16")
    note = open_source(str(place), "video").notes[0]
    assert "to use .h264 put them into a container such as .mkv" in note
    assert note.endswith("pictures are read where data.frames is left out")


@pytest.mark.parametrize("media", ["image", "video"])
def test_a_place_without_samples_says_what_it_holds(tmp_path: Path, media: str) -> None:
    empty = folder(tmp_path / "empty", [])
    empty.mkdir()
    assert problem(empty, media).endswith("; it is empty")
    noun = "picture" if media == "image" else "clip"
    for place in places(tmp_path, ["a.csv", "b/c.csv", "d.md"]):
        text = problem(place, media)
        assert text.startswith(f"no {noun} in '{place}'")
        assert text.endswith("it holds 3 other files: 2 .csv ('a.csv', …), 1 .md ('d.md')")


def test_what_is_no_regular_file_is_named(tmp_path: Path) -> None:
    place = folder(tmp_path / "x", ["a.jpg", "b/c.jpg"])
    os.mkfifo(place / "pipe.jpg")
    os.mkfifo(place / "b" / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place / "s.jpg"))
        os.symlink(place, place / "b" / "up")
        os.symlink("me.jpg", place / "me.jpg")
        source = open_source(str(place))
        assert [source.sample_name(i) for i in range(len(source))] == ["a.jpg", "b/c.jpg"]
        assert source.notes == [
            "passed over 2 named pipes: b/pipe.mp4, pipe.jpg",
            "passed over 2 circular links: b/up, me.jpg",
            "passed over a socket: s.jpg",
        ]
    assert "'" + str(place / "pipe.jpg") + "' is no regular file" in problem(place / "pipe.jpg")


def test_a_link_that_leads_nowhere_is_a_broken_picture(tmp_path: Path) -> None:
    place = folder(tmp_path / "x", ["a.jpg"])
    os.symlink("gone.jpg", place / "b.jpg")
    source = open_source(str(place))
    with pytest.raises(BrokenImage, match="No such file"):
        source.read(1)


def test_a_pipe_in_a_list_is_broken_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    folder(tmp_path, ["a.jpg"])
    (tmp_path / "l.txt").write_text("a.jpg\npipe.jpg\n")
    with pytest.raises(BrokenImage, match="no regular file"):
        open_source(str(tmp_path / "l.txt")).read(1)


def test_links_in_a_shard_are_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name, kind in (("a.jpg", tarfile.REGTYPE), ("b.jpg", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a.jpg"
            archive.addfile(member)
    assert open_source(str(tmp_path / "s.tar")).notes == ["passed over a link: b.jpg"]


@pytest.mark.parametrize(
    "url",
    ["https://a.b/c.jpg", "s3://bucket/x.tar", "pipe:curl x", "hf://datasets/a/b", "gs://b/{0..9}"],
)
def test_a_url_is_told_that_files_are_read(url: str) -> None:
    assert problem(url) == (
        f"'{url}' is a URL, and the data can only be read from local files: download them first "
        "and give their path"
    )


@pytest.mark.parametrize("path", ["", " "])
def test_no_path_is_not_the_folder_one_is_in(path: str, tmp_path: Path, monkeypatch) -> None:
    folder(tmp_path, ["a.jpg"])
    monkeypatch.chdir(tmp_path)
    assert problem(path) == ("the path of the data is empty; write '.' for the folder you are in")
    assert len(open_source(".")) == 1


def test_endings_that_count_are_the_documented_ones() -> None:
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    for media in (PICTURES, CLIPS):
        start = page.index(f"Files that count as {media.noun.replace('clip', 'video')}s end in")
        told = page[start : page.index("\n\n", start)]
        for ending in media.suffixes | (HEIF_SUFFIXES if media is PICTURES else set()):
            assert f"`{ending}`" in told, ending
