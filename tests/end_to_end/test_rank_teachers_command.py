"""`vistill rank-teachers` on labelled and unlabelled pictures."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import CELLS, pretrain_mae, run

from vistill.cli import main

pytestmark = pytest.mark.slow

QUICK = ["device=cpu", "workers=0"]


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of another width."""
    out = tmp_path_factory.mktemp("teachers") / "second"
    return pretrain_mae(out, "student.embed_dim=24", "student.num_heads=2")


def test_with_labels(mae_run: Path, second: Path, tmp_path: Path) -> None:
    out = tmp_path / "ranking.json"
    words = [mae_run, second, "--data", CELLS / "train", "--student", "timm/test_vit", "--out", out]
    told = run("rank-teachers", *words, *QUICK).stdout
    assert "a student of 64 channels" in told
    assert "try first: " in told
    found = json.loads(out.read_text())
    assert [one["width"] for one in found["scores"]] == [48, 24]
    for one in found["scores"]:
        assert one["knn_interval"][0] <= one["knn"] <= one["knn_interval"][1]
        assert 0 < one["compactness"] < 1
        assert one["svd_std_ratio"] > 1
        assert one["seconds"] > 0
    assert found["best"] in (str(mae_run), str(second))


def test_without_labels(mae_run: Path, second: Path, tmp_path: Path) -> None:
    for number, picture in enumerate(sorted(CELLS.glob("train/*/*"))[:12]):
        shutil.copy(picture, tmp_path / f"{number}{picture.suffix}")
    told = run("rank-teachers", mae_run, second, "--data", tmp_path, *QUICK).stdout
    assert "12 pictures, a student of 192 channels" in told
    assert "without labels" in told


def test_what_cannot_be_done_is_told(mae_run: Path, second: Path, tmp_path: Path, capsys) -> None:
    two, data = [str(mae_run), str(second)], ["--data", str(CELLS / "train"), *QUICK]
    shutil.copy(next(CELLS.glob("train/*/*")), tmp_path / "one.jpg")
    for words, message in (
        (two, "give --data PATH"),
        ([str(mae_run), *data], "give two or more"),
        ([str(mae_run), str(mae_run), *data], "twice"),
        ([*two, *data, "pictres=5"], "did you mean pictures"),
        ([*two, *data, "--student", "vit_tiny", "student_width=8"], "leave one of them out"),
        ([*two, *data, "--student", "vit_tinny"], "vit_tiny"),
        ([*two, "--data", str(tmp_path), *QUICK], "needs four pictures"),
        ([*two, *data, "--out", "nowhere/x.json"], "folder nowhere does not exist"),
    ):
        assert main(["rank-teachers", *words]) == 2, words
        told = capsys.readouterr().err.splitlines()[-1]
        assert message in told, told
