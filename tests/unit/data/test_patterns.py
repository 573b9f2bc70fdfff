"""Several archives at once: braces, globs, and folders of them."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from vistill.data import open_source
from vistill.data.patterns import expand_braces
from vistill.errors import UserError


def archives(root: Path, names: list[str]) -> Path:
    """A `.tar` or `.zip` of one picture in a folder for every name."""
    root.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        inside, data = f"set/{'ab'[number % 2]}/{number}.png", bytes([number])
        if name.endswith(".tar"):
            with tarfile.open(root / name, "w") as shard:
                member = tarfile.TarInfo(inside)
                member.size = 1
                shard.addfile(member, io.BytesIO(data))
        else:
            with zipfile.ZipFile(root / name, "w") as packed:
                packed.writestr(inside, data)
    return root


def names(path: Path | str) -> list[str]:
    source = open_source(str(path))
    assert source.classes == ["a", "b"]
    assert [source.read(i) for i in range(len(source))] == [bytes([i]) for i in range(len(source))]
    return [source.sample_name(i) for i in range(len(source))]


def problem(path: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        open_source(str(path))
    return str(caught.value)


@pytest.mark.parametrize("ending", ["tar", "zip"])
@pytest.mark.parametrize(
    "pattern",
    ["{000..002}.%", "*.%", "", "00{0,1,2}.%", "{000,00[12]}.%", "0{00,0{1..2}}.%", "**/*"],
)
def test_one_source_of_many_archives(tmp_path: Path, ending: str, pattern: str) -> None:
    root = archives(tmp_path / "x", [f"00{i}.{ending}" for i in range(3)])
    expected = [f"00{i}.{ending}/set/{'ab'[i % 2]}/{i}.png" for i in range(3)]
    assert names(root / pattern.replace("%", ending)) == expected


def test_braces_name_what_has_to_be_there(tmp_path: Path) -> None:
    root = archives(tmp_path / "x", ["0.tar", "1.tar"])
    assert problem(root / "{0..9}.tar") == (
        f"'{root}/{{0..9}}.tar' names 10 files, of which 8 do not exist, such as '{root}/2.tar'"
    )
    assert problem(root / "{7..9}.tar") == f"nothing matches '{root}/{{7..9}}.tar'"
    assert "more than 1000000 files" in problem(root / "{0..9999999999}.tar")
    assert "more than 1000000 files" in problem(root / ("{0..999}" * 3))


@pytest.mark.parametrize(
    ("pattern", "expanded"),
    [
        ("a", ["a"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}-{1..2}", ["a-1", "a-2", "b-1", "b-2"]),
        ("{x{0..1},y}", ["x0", "x1", "y"]),
        ("{}", ["{}"]),
        ("{one}", ["{one}"]),
    ],
)
def test_braces_are_those_of_a_shell(pattern: str, expanded: list[str]) -> None:
    assert sorted(expand_braces(pattern)) == sorted(expanded)


def test_a_name_with_braces_is_first_of_all_a_name(tmp_path: Path) -> None:
    root = archives(tmp_path / "x", ["{a,b}.tar"])
    assert len(open_source(str(root / "{a,b}.tar"))) == 1


def test_archives_beside_pictures_are_passed_over(tmp_path: Path) -> None:
    root = archives(tmp_path / "x", ["0.tar"])
    (root / "a.png").write_bytes(b"x")
    source = open_source(str(root))
    assert len(source) == 1
    assert source.notes == ["passed over 1 other file: 1 .tar ('0.tar')"]


def test_archives_of_two_kinds_do_not_mix(tmp_path: Path) -> None:
    root = archives(tmp_path / "x", ["0.tar", "1.zip"])
    assert "names 2 files (.tar, .zip); several have to be of one kind" in problem(root)
    (root / "l.csv").write_text("a.png")
    (root / "m.csv").write_text("a.png")
    assert "names 3 files (.csv, .tar, .zip); several have" in problem(root / "{l.csv,0.tar,1.zip}")
    (root / "2.tar.gz").write_bytes(b"\x1f\x8b")
    assert "is a compressed tar" in problem(root / "{0.tar,2.tar.gz}")


def test_a_glob_of_pictures_names_their_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "b").mkdir()
    assert "it is a picture: give the folder that it lies in" in problem(tmp_path / "*.png")
    assert problem(tmp_path / "[b]") == f"'{tmp_path}/b' is a folder; give one folder alone"
