"""Words that exclude each other or have no use beside others, and words that are nearly right."""

from pathlib import Path

import pytest

from vistill.cli import main

CELLS = str(Path(__file__).parents[1] / "data" / "cells" / "train")
TRAIN = ["pretrain", "mae", "--data", CELLS, "--out", "out"]
TEACH = ["pretrain", "tinymim", "--data", CELLS, "--out", "out", "--dry-run"]
MEASURE = ["evaluate", "vit_tiny", "--random-init", "--data", CELLS]
EXPORT = ["export", "vit_tiny", "--random-init", "--out", "out"]
PREPARE = ["prepare", "videos", "--out", "out"]
COLLECTION = ["prepare", "--out", "out", "--root", ".", "--annotations", "a.csv"]


def fails(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    code = main(words)
    captured = capsys.readouterr()
    assert code == 2, captured
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert not Path("out").exists()
    return captured.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*EXPORT, "--which", "best"], "--which) chooses among the exports of a run, and vit_tiny"),
        ([*PREPARE, "--quick", "--transcode"], "--quick decodes three frames"),
        ([*PREPARE, "--gop", "4"], "--gop is about re-encoding: add --transcode"),
        ([*PREPARE, "--shards", "9"], "--shards is about re-encoding: add --transcode"),
        ([*PREPARE, "--annotations", "a.csv"], "--annotations goes with --format"),
        ([*PREPARE, "--split", "train"], "--split goes with --format"),
        ([*PREPARE, "--classes", "a.csv"], "--classes goes with --format"),
        ([*PREPARE, "--format", "k400"], "leave out 'videos'"),
        ([*MEASURE, "--protocols", "test"], "--random-init has no use"),
        ([*MEASURE, "--protocols", "test", "--labels", "0.1"], "budgets=[0.1] has no use"),
        ([*MEASURE, "--protocols", "test", "--seeds", "1"], "seeds=[1] has no use"),
        ([*MEASURE, "--protocols", "knn", "finetune.epochs=3"], "finetune.epochs=3 has no use"),
        ([*MEASURE, "--model", "a.py:net"], "vit_tiny is no run"),
        ([*TRAIN, "--teacher", "run:x"], "mae learns without a teacher"),
        ([*TRAIN, "--teacher-weights", "random"], "teacher.weights=random has no use"),
        ([*TRAIN, "--chain", "vit_tiny,vit_tiny"], "mae learns without a teacher"),
        ([*TEACH, "--teacher", "a", "--student", "b", "--chain", "c"], "names its students itself"),
        ([*TEACH, "--student", "vit_tiny,vit_small"], "tinymim needs a teacher"),
        ([*TRAIN, "--student", "vit_tiny,vit_tiny"], "names a model twice"),
        ([*TRAIN, "data.train=x"], "data.train is set twice"),
        ([*TRAIN, "train.precision=fp16", "train.device=cpu"], "fp16 is for CUDA devices"),
    ],
)
def test_words_that_do_not_go_together(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    assert said in fails(words, capsys)


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["pretrian"], "pretrain"),
        (["pretrain", "tinymmi", "--out", "out"], "tinymim"),
        (["pretrain", "tinymim_smal", "--out", "out"], "tinymim_small"),
        (["pretrain", "./mine.yml", "--out", "out"], "mine.yaml"),
        (["recipes", "show", "mae_tinny"], "mae_tiny"),
        ([*TRAIN, "train.epocks=3"], "train.epochs"),
        ([*TRAIN, "trian.epochs=3"], "train.epochs"),
        ([*TRAIN, "optim.learning_rate=3"], "optim.lr"),
        ([*TRAIN, "optim.schedule=cosin"], "cosine"),
        ([*TRAIN, "train.precision=fp61"], "fp16"),
        ([*TRAIN, "--student", "vit_tinny"], "vit_tiny"),
        ([*TRAIN, "--student", "swinv2_tny"], "swinv2_tiny"),
        ([*TRAIN, "--teacher-weights", "radnom"], "random"),
        (["pretrain", "mae", "--data", "picturs", "--out", "out"], "pictures"),
        ([*MEASURE, "--protocols", "kn"], "knn"),
        ([*MEASURE, "--protocols", "finetune", "finetune.recipe=mae_bas"], "mae_base"),
        ([*MEASURE, "--protocols", "finetune", "finetune.epoch=1"], "finetune.epochs"),
        ([*MEASURE, "poll=cls"], "pool"),
        (["evaluate", "vit_tinny", "--data", CELLS], "vit_tiny"),
        (["evaluate", "run:runz", "--data", CELLS], "runs"),
        (["evaluate", "file:weights.pht", "--data", CELLS], "weights.pth"),
        (["evaluate", "./runz", "--data", CELLS], "runs"),
        ([*EXPORT, "--format", "onxn"], "onnx"),
        (["export", "vit_tiny", "--which", "bset", "--out", "out"], "best"),
        ([*PREPARE, "--transcode", "--codec", "h246"], "h264"),
        ([*COLLECTION, "--format", "k40"], "k400"),
        (["prepare", "vidoes", "--out", "out"], "videos"),
        (["embed", "vit_tinny", "--data", CELLS, "--out", "out.npy"], "vit_tiny"),
    ],
)
def test_the_nearest_right_word_is_told(
    words: list[str],
    near: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pictures", "videos", "runs"):
        (tmp_path / name).mkdir()
    for name in ("mine.yaml", "weights.pth"):
        (tmp_path / name).touch()
    error = fails(words, capsys)
    assert "did you mean" in error.lower()
    assert near in error.partition("ean ")[2]
