"""`vistill pretrain`: MAE, TinyMIM from its run, a chain, resuming, several ranks."""

import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command_line import CELLS, MAE, SIZES, TORCHRUN, command, environment, run, start
from safetensors.torch import load_file

from vistill.config.loading import load_config


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def tinymim(teacher: Path, out: Path, *words: str) -> list[object]:
    return [
        *("pretrain", "tinymim", "--data", CELLS / "train", "--out", out),
        *("--teacher", f"run:{teacher}", *SIZES, *words),
    ]


def test_mae_leaves_a_folder_that_explains_itself(mae_run: Path) -> None:
    printed = (mae_run / "stdout.txt").read_text()
    for line in ("method   mae", "student  vit: ", "data     ", "train    2 epochs of 2 steps"):
        assert re.search(f"^{re.escape(line)}", printed, re.MULTILINE), printed
    assert "27 pictures, 3 classes, 5 held out" in printed
    assert str(mae_run / "export" / "best") in printed

    config = load_config(mae_run / "config.yaml", [])
    assert config.student.embed_dim == 48
    last = metrics(mae_run)[-1]
    assert last["step"] == 4
    assert 0 < last["held_out_loss"] < 10
    assert 0 <= last["knn"] <= 100
    for which in ("best", "last"):
        description = json.loads((mae_run / "export" / which / "model.json").read_text())
        assert description["origin"].startswith("pre-trained by mae")
    result = json.loads((mae_run / "result.json").read_text())
    assert result["steps"] == 4
    assert set(result["terms"]) >= {"loss"}


def test_tinymim_learns_from_the_run(mae_run: Path, tmp_path: Path) -> None:
    words = tinymim(mae_run, tmp_path / "t", "train.epochs=1", "student.model=vit")
    done = run(*words)
    assert f"weights: run {mae_run}" in done.stdout
    environments = json.loads((tmp_path / "t" / "environment.json").read_text())
    assert environments[0]["teacher_weights"] == f"run {mae_run}"
    assert environments[0]["packages"]["torch"]

    again = run(*words)  # a finished run is recognised and left alone
    assert "(continues)" in again.stdout
    assert len(metrics(tmp_path / "t")) == len({m["step"] for m in metrics(tmp_path / "t")})

    other = run(*words, "optim.lr=1e-3", expect=2)
    assert "holds a run of another configuration (optim.lr: null → 0.001)" in other.stderr
    assert not (tmp_path / "t.old-1").exists()
    run(*words, "optim.lr=1e-3", "--overwrite")
    assert (tmp_path / "t.old-1" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_chain_is_one_resumable_command(mae_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "chain"
    words = tinymim(mae_run, out, "train.epochs=1", "--chain", "vit,vit")
    done = run(*words)
    assert f"weights: run {out / '1-vit'}" in done.stdout
    first, second = (
        load_file(out / d / "export/best/model.safetensors") for d in ("1-vit", "2-vit")
    )
    assert any((first[name] != second[name]).any() for name in first)
    whole = load_file(out / "export" / "best" / "model.safetensors")
    assert all((whole[name] == second[name]).all() for name in second)

    (out / "2-vit" / "result.json").unlink()
    written = (out / "1-vit" / "metrics.jsonl").stat().st_mtime_ns
    again = run(*words)
    assert f"finished {out / '1-vit'}" in again.stdout
    assert "(continues)" in again.stdout
    assert (out / "1-vit" / "metrics.jsonl").stat().st_mtime_ns == written


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_continues(tmp_path: Path) -> None:
    settings = [*MAE, "train.epochs=40", "train.evaluate_every=20", "train.knn_probe=false"]
    words = ["pretrain", "mae", "--data", CELLS / "train", *settings, "--out"]
    out = tmp_path / "stopped"
    process = start(*words, out)
    while not (out / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 143, err
    assert re.search(r"stopped after step \d+ of 80; saved in .*, and the same command", err)

    continued = run(*words, out)
    assert "(continues)" in continued.stdout
    run(*words, tmp_path / "whole")
    ours = load_file(out / "export" / "last" / "model.safetensors")
    theirs = load_file(tmp_path / "whole" / "export" / "last" / "model.safetensors")
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_dry_run_checks_and_writes_nothing(mae_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "dry"
    done = run(*tinymim(mae_run, out, "student.model=vit", "train.epochs=3", "--dry-run"))
    assert "train    3 epochs of 2 steps" in done.stdout
    assert not out.exists()


@pytest.mark.slow
def test_two_ranks_print_and_write_once(tmp_path: Path) -> None:
    words = command("pretrain", "mae", "--data", CELLS / "train", "--out", tmp_path / "r", *MAE)
    done = subprocess.run(
        [*TORCHRUN, *words[1:], "train.epochs=1"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("method   mae") == 1
    assert done.stdout.count("finished 2 steps") == 1
    assert (tmp_path / "r" / "export" / "best" / "model.safetensors").exists()

    mistaken = subprocess.run(
        [*TORCHRUN, *words[1:], "train.epochs=1", "seed=5"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=600,
    )
    assert mistaken.returncode != 0
    assert mistaken.stderr.count("error: ") == 1, mistaken.stderr


def test_broken_pictures_are_named_in_the_run_folder(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(CELLS / "train", pictures)
    (pictures / "red" / "half.jpg").write_bytes(
        next((CELLS / "train" / "red").glob("*.jpg")).read_bytes()[:400]
    )
    out = tmp_path / "run"
    done = run("pretrain", "mae", "--data", pictures, "--out", out, *MAE, "train.epochs=2",
               "data.max_broken=0.2")  # fmt: skip
    broken = json.loads((out / "broken_pictures.json").read_text())
    assert list(broken) == ["red/half.jpg"]
    assert "1 broken" in done.stdout + done.stderr
