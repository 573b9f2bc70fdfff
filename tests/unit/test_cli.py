"""The command line without torch: words in, sentences and exit codes out."""

import errno
import os
from pathlib import Path

import pytest

import vistill
from vistill import cli
from vistill.cli import main
from vistill.config.loading import recipe_names

TIMM = ["--student", "timm/vit"]
BOTH = ["--student", "vit_base", "--chain", "vit_base"]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"vistill {vistill.__version__}\n", "")


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_names_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *words)
    assert code == 0
    for command in ("pretrain", "evaluate", "export", "recipes", "demo"):
        assert f"\n  {command} " in out


def test_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "recipes", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == recipe_names()
    assert all(len(line) < 110 for line in out.splitlines())

    _, shown, _ = run(capsys, "recipes", "show", "mae_base")
    target = tmp_path / "mine.yaml"
    assert run(capsys, "recipes", "copy", "mae_base", str(target))[0] == 0
    assert target.read_text() == shown

    code, _, err = run(capsys, "recipes", "copy", "mae_base", str(target))
    assert (code, err) == (2, f"error: {target} exists already\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrian"], "No such command 'pretrian'. Did you mean 'pretrain'?"),
        (["pretrain", "--dta", "x"], "No such option: --dta"),
        (["pretrain", "mae"], "pretrain needs a folder to write to: give --out DIR"),
        (["pretrain", "mae", "extra", "--out", "x"], "'extra' is neither key=value nor"),
        (["pretrain", "tinymmi", "--out", "x"], "did you mean 'tinymim'?"),
        (["pretrain", "mae", "--out", "x"], "mae needs pictures or clips: give --data PATH"),
        (["pretrain", "mae", "--out", "x", "optim.learning_rate=1"], "did you mean optim.lr?"),
        (["pretrain", "--out", "x", "--data", "y"], "tinymim needs a teacher: give --teacher"),
        (
            ["pretrain", "mae", "--out", "x", "--data", "y", "--teacher", "run:z"],
            "mae learns without a teacher, so the teacher run:z has no use; leave it out",
        ),
        (
            ["pretrain", "--out", "x", "--data", "y", "--teacher", "a", *BOTH],
            "a chain names its students itself",
        ),
        (
            ["pretrain", "--out", "x", "--data", "y", "--teacher-weights", "radnom"],
            "teacher.weights cannot be 'radnom'; did you mean 'random'?",
        ),
        (
            ["pretrain", "--out", "x", "--data", "y", "data.train=z"],
            "data.train is set twice: 'z' and 'y'",
        ),
        (
            ["pretrain", "mae", "--out", "x", "--data", "y", "student.depth=3", *TIMM],
            "student.depth=3 has no use with student.model=timm/vit, which is no plain ViT",
        ),
        (["evaluate", "x"], "evaluate needs labelled pictures: give --data PATH"),
        (["evaluate", "x", "--data", "y", "--seeds", "1,b"], "--seeds must be numbers"),
        (["export", "x"], "export needs a folder to write to: give --out DIR"),
        (["export", "x", "--out", "y", "--format", "tim"], "did you mean 'timm'?"),
        (["export", "x", "--out", "y", "--which", "first"], "which must be best or last"),
        (["export", "no/such", "--out", "y"], "no/such does not exist"),
        (["recipes", "show", "mae_bse"], "unknown recipe 'mae_bse'; did you mean 'mae_base'?"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *words)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


def test_other_exceptions_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr("vistill.api.recipes.show", broken)
    with pytest.raises(ZeroDivisionError):
        main(["recipes", "show", "mae_base"])


def test_a_full_disk_is_told_in_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(name: str, path: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("vistill.api.recipes.copy", full)
    code, _, err = run(capsys, "recipes", "copy", "mae_base", "x.yaml")
    assert (code, err) == (1, "error: cannot write x.yaml: No space left on device\n")


def test_other_ranks_leave_the_word_to_the_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(cli.time, "sleep", waited.append)
    for rank, said in (("0", "error: unknown recipe"), ("1", "error: rank 1: unknown recipe")):
        monkeypatch.setenv("RANK", rank)
        assert run(capsys, "recipes", "show", "x")[2].startswith(said)
    assert waited == [cli._RANK_PATIENCE]
