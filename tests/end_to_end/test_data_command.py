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


def replace_pictures(folder: Path, *names: str) -> None:
    for name in names:
        picture = Image.open(folder / name).rotate(90).resize((90, 90))
        picture.save(folder / name, "JPEG", quality=98)


def touched(folder: Path, *names: str) -> None:
    for name in names or [path.relative_to(folder) for path in folder.rglob("*.jpg")]:
        os.utime(folder / name, (1, 1))


def test_replaced_pictures_are_noticed_on_a_resume(folder: Path, capsys) -> None:
    pretrain("--data", folder, "train.epochs=1")
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    replace_pictures(folder, "red/00000.jpg", "white/00001.jpg")
    capsys.readouterr()
    for dry in ([], ["--dry-run"]):
        pretrain("--data", folder, "train.epochs=1", *dry, expect=2)
        assert capsys.readouterr().err == (
            "error: out holds a run of other pictures: 2 of 27 have been replaced under their "
            "names (red/00000.jpg, white/00001.jpg); choose another output folder, or --overwrite "
            "to move that run aside\n"
        )
    after = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    assert {path: when for path, when in after.items() if path.name != "lock"} == {
        path: when for path, when in before.items() if path.name != "lock"
    }
    pretrain("--data", folder, "train.epochs=1", "--overwrite")
    assert Path("out.old-1/stamps.npy").exists()
    pretrain("--data", folder, "train.epochs=1")


def test_copied_pictures_do_not_stop_a_run(folder: Path, capsys) -> None:
    pretrain("--data", folder, "train.epochs=1")
    touched(folder, "red/00000.jpg")
    pretrain("--data", folder, "train.epochs=1")
    assert (
        "note     pictures: 1 of 27 pictures are as large as when the run in out began, but were "
        "written at another time (red/00000.jpg); they are taken for copies of the same\n"
    ) in capsys.readouterr().out


def test_a_run_of_an_earlier_version_goes_on_and_is_stamped(folder: Path) -> None:
    pretrain("--data", folder, "train.epochs=1")
    marker = json.loads(Path("out/vistill.json").read_text())
    assert "value_range" not in marker["fingerprint"]["data"]
    assert "allow_truncated" not in marker["fingerprint"]["data"]
    Path("out/stamps.npy").unlink()
    pretrain("--data", folder, "train.epochs=1")
    replace_pictures(folder, "red/00000.jpg")
    pretrain("--data", folder, "train.epochs=1", expect=2)


KDEP = ["pretrain", "kdep_resnet18", "--data", "pictures", "data.image_size=32", "data.workers=0",
        "data.held_out=0.2", "train.global_batch_size=22", "train.device=cpu", "train.epochs=1",
        "method.wider=pad", "optim.lr=0.01", "cache.views=1", "cache=cache", "--teacher",
        "timm/resnet10t", "--teacher-weights", "random", "--student", "timm/test_vit"]  # fmt: skip


@pytest.mark.slow
def test_a_cache_looks_again_at_replaced_pictures(folder: Path, capsys) -> None:
    def run_into(out: str, expect: int = 0) -> str:
        assert main([*KDEP, "--out", out]) == expect
        told = capsys.readouterr()
        return told.out if expect == 0 else told.err

    assert "cache    cache: 0 of 27 records" in run_into("1")
    assert "cache    cache: 27 of 27 records" in run_into("2")
    records = {path.name: path.read_bytes() for path in Path("cache").glob("records-*")}
    replace_pictures(folder, "red/00000.jpg")
    told = run_into("3")
    assert (
        "note     cache: 1 of 27 pictures have been replaced since the cache was made "
        "(red/00000.jpg): the teacher looks at them again\n"
    ) in told
    assert "cache    cache: 26 of 27 records" in told
    assert {path.name: path.read_bytes() for path in Path("cache").glob("records-*")} != records
    assert "cache    cache: 27 of 27 records" in (told := run_into("4"))
    assert "note" not in told

    touched(folder, "red/00001.jpg")  # one of many: it may well be another one
    assert "cache    cache: 26 of 27 records" in run_into("5")
    touched(folder)  # all of them: copies, which are compared with the teacher
    told = run_into("6")
    assert "note     cache: 26 of 27 pictures are as large as when the cache was made" in told
    assert "cache    cache: 27 of 27 records" in told

    Path("cache/stamps.npy").unlink()  # of an earlier version
    assert "cache    cache: 27 of 27 records" in run_into("7")
    assert Path("cache/stamps.npy").exists()
    Path("cache/stamps.npy").write_bytes(b"no")
    assert "cache/stamps.npy is damaged" in run_into("8", expect=2)
