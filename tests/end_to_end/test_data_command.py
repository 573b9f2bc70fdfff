"""The command line on data that are not quite what they seem: everything left out is said."""

import json
import os
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from command_line import CELLS, MAE
from PIL import Image

from vistill.cli import main

WORDS = [word.replace("batch_size=8", "batch_size=4") for word in MAE]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cells in a folder that may be changed, as `pictures` in the current folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(CELLS / "train", "pictures"))


def pretrain(*words: object, expect: int = 0) -> None:
    assert main(["pretrain", "mae", "--out", "out", *WORDS, *map(str, words)]) == expect


def test_what_is_passed_over_is_said_even_where_the_run_is_refused(tmp_path: Path, capsys) -> None:
    for picture in sorted((CELLS / "train" / "red").iterdir())[:3]:
        shutil.copy(picture, tmp_path)
    for number in range(50):
        (tmp_path / f"IMG_{number}.DNG").write_bytes(b"raw")
    os.mkfifo(tmp_path / "pipe.jpg")
    pretrain("--data", tmp_path, expect=2)
    told = capsys.readouterr()
    assert told.out == (
        f"note     {tmp_path}: passed over 50 other files: 50 .dng ('IMG_0.DNG', …); to use .dng "
        "convert them to .jpg, .png or .tif\n"
        f"note     {tmp_path}: passed over a named pipe: pipe.jpg\n"
    )
    assert "larger than the number of training pictures, 2" in told.err


def test_pretrain_says_why_there_is_no_probe(folder: Path, capsys) -> None:
    shutil.copy(folder / "red" / "00000.jpg", folder / "stray.jpg")
    pretrain("--data", folder, "--dry-run")
    out = capsys.readouterr().out
    assert "note     no labels, so no kNN probe: 'stray.jpg' lies beside the folders" in out
    pretrain("--data", folder, "--dry-run", "train.knn_probe=false")
    assert "note" not in capsys.readouterr().out
    pretrain("--data", folder / "red", "--dry-run")  # nothing there looks like classes
    assert "note" not in capsys.readouterr().out


def test_evaluate_says_why_there_are_no_labels(folder: Path, mae_run: Path, capsys) -> None:
    (folder / "red" / "old").mkdir()
    (folder / "red" / "00000.jpg").rename(folder / "red" / "old" / "1.jpg")
    assert main(["evaluate", f"run:{mae_run}", "--data", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "'red/old/1.jpg' lies in a folder inside a folder" in err


def test_labels_that_are_partly_known(folder: Path, capsys) -> None:
    with tarfile.open("s.tar", "w") as shard:
        shard.add(folder, "pictures")
    rows = [
        f"pictures/{path.relative_to(folder)},{path.parent.name}" for path in folder.rglob("*.jpg")
    ]
    rows[0] = rows[0].rpartition(",")[0] + ",nan"
    Path("l.csv").write_text("\n".join(["path,label", *rows]))
    pretrain("--data", "l.csv", "--dry-run")
    assert "27 pictures, 3 classes (26 of 27 labelled), 5 held out" in capsys.readouterr().out
    pretrain("--data", "{s,s}.tar", "--dry-run")
    assert "27 pictures, 3 classes, 5 held out" in capsys.readouterr().out


@pytest.mark.parametrize("path", ["", "https://a.b/c.zip", "pipe:cat x.tar"])
@pytest.mark.parametrize(
    "words",
    [
        [*["pretrain", "mae", "--out", "out", *WORDS], "--data", "PATH"],
        ["evaluate", "vit_tiny", "--random-init", "--data", "PATH"],
        ["evaluate", "vit_tiny", "--random-init", "--data", "pictures", "--test", "PATH"],
        ["evaluate", "vit_tiny", "--random-init", "--data", "PATH", "--test", "pictures"],
        ["evaluate", "vit_tiny", "--random-init", "--protocols", "detection", "--data", "PATH"],
        ["prepare", "--out", "out", "PATH"],
    ],
)
def test_no_path_and_urls_are_refused(words: list[str], path: str, folder: Path, capsys) -> None:
    (folder.parent / "train").mkdir()
    (folder.parent / "val").mkdir()
    before = sorted(folder.parent.rglob("*"))
    assert main([path if word == "PATH" else word for word in words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert ("is a URL" if path else "is empty; write '.'") in err
    assert sorted(folder.parent.rglob("*")) == before


def test_sixteen_bits_are_told_set_and_inherited(folder: Path, mae_run: Path, capsys) -> None:
    """12 bits in 16: what is black and white is said, set for a run, and kept for evaluations."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(sorted(folder.rglob("*.jpg"))):
        values = rng.integers(0, 4000, (40, 40)).astype(np.uint16) // (1 + number % 3)
        Image.fromarray(values).save(name.with_suffix(".png"))
        name.unlink()
    pretrain("--data", folder, "--dry-run")
    assert "data.value_range=[0,4095] would spread them" in capsys.readouterr().out
    pretrain("--data", folder, "data.value_range=[0,4095]", "train.epochs=1")
    assert "note" not in capsys.readouterr().out
    knn = ["evaluate", "run:out", "--data", str(folder), "--protocols", "knn"]
    assert main([*knn, "--out", "scores.json"]) == 0
    assert "value_range=[0.0, 4095.0], as it was trained" in capsys.readouterr().out
    assert json.loads(Path("scores.json").read_text())["config"]["value_range"] == [0, 4095]
    exported = json.loads(Path("out/export/best/model.json").read_text())
    assert exported["value_range"] == [0, 4095]
    knn[1] = f"run:{mae_run}"
    assert main([*knn, "value_range=[0,2000]"]) == 0
    assert "values beyond count as these" in capsys.readouterr().out


def test_jpegs_without_end_marker_are_used_by_a_switch(folder: Path, capfd, caplog) -> None:
    names = sorted(folder.rglob("*.jpg"))
    for name in names:
        name.write_bytes(name.read_bytes()[:-2])
    pretrain("--data", folder, expect=2)
    assert "none of 8 pictures tried" in (err := capfd.readouterr().err)
    assert "allow_truncated=true would use it" in err
    pretrain("--data", folder, "train.epochs=1", "data.allow_truncated=true")
    assert caplog.text.count("used a picture without its end marker: ") >= 20
    assert re.search(r"step 5/5 .* · 20 without end marker\n", capfd.readouterr().err)
    assert not Path("out/broken_pictures.json").exists()
