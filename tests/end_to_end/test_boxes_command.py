"""`vistill evaluate --protocols boxes` from a folder to a table and a file."""

import json
from pathlib import Path

import pytest
from squares import squares, voc

from vistill.cli import main

MODEL = ["evaluate", "vit_tiny", "--random-init", "image_size=32", "device=cpu", "workers=0"]
SMALL = ["boxes.channels=16", "boxes.regions=8", "boxes.epochs=1", "boxes.global_batch_size=2"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    odd = [((48, 64), [(0, (5, 5, 5, 9)), (1, (1, 1, 20, 20))]), *squares(3)]
    voc(tmp_path / "things", {"train": odd, "val": squares(2, seed=1)})
    return tmp_path / "things"


@pytest.mark.slow
def test_a_table_and_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "scores.json"
    words = ["--data", str(folder), "--protocols", "boxes", "--seeds", "0,1", "--out", str(out)]
    assert main([*MODEL, *SMALL, *words, "boxes.train_share=0.5"]) == 0
    said = capsys.readouterr()
    assert "of 10 boxes 1 × left out, as it has no area (train_0)" in said.out
    assert said.out.count("2 pictures to learn from, 2 tested, seed ") == 2
    assert "AP % of boxes by class, and at 0.5:" in said.out
    found = json.loads(out.read_text())
    assert [one["seed"] for one in found["boxes"]] == [0, 1]
    assert found["config"]["boxes"]["train_share"] == 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere", "--protocols", "boxes"], "nowhere is no folder; boxes reads"),
        (["--data", "FOLDER", "--protocols", "boxes,knn"], "boxes has boxes for labels, so it can"),
        (["--data", "FOLDER", "--protocols", "boxes", "boxes.test=vla"], "did you mean 'val'?"),
        (["--data", "FOLDER", "--protocols", "boxes", "test_share=0.3"], "has no use with protoc"),
        (["--data", "FOLDER", "boxes.epochs=3"], "it needs boxes among them"),
    ],
)
def test_mistakes(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main([*MODEL, *(word.replace("FOLDER", str(folder)) for word in words)]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
