"""Mistakes that only models or data reveal: one sentence, exit code 2, nothing written."""

from pathlib import Path

import pytest
from command_line import CELLS, MAE, SIZES, run_afresh

from vistill.cli import main

MAE_WORDS = ["pretrain", "mae", "--data", str(CELLS / "train"), "--out", "out", *MAE]
TINY = ["pretrain", "--data", str(CELLS / "train"), "--out", "out", "student.model=vit", *SIZES]
CHAIN = ["pretrain", "--data", str(CELLS / "train"), "--chain", "vit_tiny,vit_tiny", *SIZES[4:]]
RANDOM = ["--teacher", "vit_tiny", "--teacher-weights", "random"]


def instead(words: list[str], word: str) -> list[str]:
    """`words` with another value for the setting in `word`."""
    key = word.partition("=")[0]
    return [word if old.partition("=")[0] == key else old for old in words]


@pytest.mark.slow
def test_the_shell_sees_exit_code_2_and_one_line(tmp_path: Path) -> None:
    words = ["pretrain", "mae", "--data", "nowhere", "--out", "out"]
    done = run_afresh(*words, expect=2, cwd=tmp_path)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "nowhere" in done.stderr
    assert not done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["pretrain", "mae", "--data", "empty", "--out", "out"], ["empty"]),
        (instead(MAE_WORDS, "train.global_batch_size=4096"), ["train.global_batch_size"]),
        (instead(MAE_WORDS, "data.image_size=33"), ["33", "multiple of the patch size 8"]),
        ([*TINY, "--teacher", "vit_tiny"], ["random weights", "--teacher-weights random"]),
        (
            [*TINY, "--teacher", "timm/vit_tiny_patch16_224"],
            ["timm/vit_tiny_patch16_224:pretrained"],
        ),
        (
            [*TINY, "--teacher", "timm/vit_tinny_patch16_224:pretrained"],
            ["near: vit_tiny_"],
        ),
        ([*TINY, "--teacher", "run:none"], ["there is no run none"]),
        ([*TINY, "--teacher", "file:none.pth"], ["there is no weight file none.pth"]),
        ([*TINY, "--teacher", "huge"], ["unknown model 'huge'"]),
        ([*TINY, "--teacher", "empty"], ["unknown model 'empty'; did you mean run:empty?"]),
        ([*TINY, *RANDOM, "method.relation.heads=5"], ["5"]),
        ([*TINY, *RANDOM, "teacher.block=13"], ["13", "12"]),
        ([*MAE_WORDS[:5], "strange", *MAE], ["strange is not empty"]),
        ([*MAE_WORDS[:5], "file.txt", *MAE], ["file.txt is a file"]),
        ([*MAE_WORDS[:5], "strange", *MAE, "--dry-run"], ["strange is not empty"]),
        ([*MAE_WORDS[:5], "file.txt/x", *MAE, "--dry-run"], ["file.txt is not writable"]),
        ([*CHAIN, *RANDOM, "--out", "strange", "--dry-run"], ["strange is not empty"]),
        (instead([*CHAIN, *RANDOM, "--out", "out"], "train.global_batch_size=4096"), ["4096"]),
        (
            ["pretrain", "mae", "--data", "broken", "--out", "out", *MAE],
            ["none of 8 pictures", "a.jpg (not a picture)"],
        ),
    ],
)
def test_one_sentence_before_any_work(
    words: list[str],
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "thesis.txt").write_text("dear")
    (tmp_path / "file.txt").write_text("dear")
    (tmp_path / "broken").mkdir()
    for name in "abcdefghijklmnopqrst":
        (tmp_path / "broken" / f"{name}.jpg").write_text("dear")
    before = sorted(tmp_path.rglob("*"))
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
    assert sorted(tmp_path.rglob("*")) == before
