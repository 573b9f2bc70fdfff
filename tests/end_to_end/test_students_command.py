"""`--student a,b`: two students of one cached teacher, cut and resumed, on one rank and on two."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from command_line import CELLS, TORCHRUN, command, environment, run
from safetensors.torch import load_file

NAMES = ["small", "large"]
STUDENTS = [
    "students.small.model=vit",
    "students.small.embed_dim=24",
    "students.small.lr=2e-3",
    "students.large.model=vit",
    "students.large.embed_dim=48",
    "student.depth=2",
    "student.num_heads=3",
    "student.patch_size=8",
    "student.drop_path=0.2",
    "data.image_size=32",
    "data.workers=0",
    "data.held_out=0.2",
    "train.global_batch_size=8",
    "train.device=cpu",
    "train.epochs=2",
    "optim.warmup_epochs=0",
    "optim.lr=1e-3",
]


def pretrain(out: Path, *words: str) -> list[object]:
    return [
        *("pretrain", "feature_distillation", "--data", CELLS / "train", "--out", out),
        *("--teacher", "vit_tiny", "--teacher-weights", "random", "teacher.image_size=64"),
        *("train.checkpoint_steps=1", *STUDENTS, *words),
    ]


def weights(out: Path) -> dict[str, torch.Tensor]:
    found = {}
    for name in NAMES:
        state = load_file(out / "export" / name / "last" / "model.safetensors")
        found |= {f"{name}.{key}": value for key, value in state.items()}
    return found


def last_line(out: Path) -> dict[str, float]:
    return json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.slow
def test_two_students_resume_and_are_measured(tmp_path: Path) -> None:
    out, cache = tmp_path / "run", f"cache={tmp_path / 'cache'}"
    done = run(*pretrain(out, cache))
    assert "student  small: vit: " in done.stdout
    assert f"large: {out}/export/large/best; best held_out_loss" in done.stdout
    assert {"loss/small/feature", "large/held_out_loss", "small/knn"} <= last_line(out).keys()

    half = tmp_path / "half"
    assert "0 of 54 outputs of the teacher were read" not in run(*pretrain(half, cache)).stdout
    for checkpoint in sorted((half / "checkpoints").iterdir())[1:]:
        checkpoint.unlink()
    again = run(*pretrain(half, cache))
    assert "resuming after step 3 of 4" in again.stdout + again.stderr
    ours, theirs = weights(half), weights(out)
    assert [key for key in theirs if not torch.equal(ours[key], theirs[key])] == []

    words = ["--data", CELLS, "--protocols", "knn", "workers=0", "device=cpu"]
    done = run("evaluate", out, *words, expect=2)
    assert f"holds 2 students; write run:{out}/large or run:{out}/small" in done.stderr
    assert "knn" in run("evaluate", out / "small", *words).stdout
    done = run(*pretrain(tmp_path / "no"), "--student", "vit_tiny,vit_tiny", expect=2)
    assert "--student vit_tiny,vit_tiny names a model twice" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_train_two_students(tmp_path: Path, strategy: str) -> None:
    words = [f"train.strategy={strategy}", "train.activation_checkpointing=true"]
    two = command(*pretrain(tmp_path / "two", *words))
    done = subprocess.run(
        [*TORCHRUN, *two[1:]], capture_output=True, text=True, env=environment(), timeout=600
    )
    assert done.returncode == 0, done.stderr
    run(*pretrain(tmp_path / "one"))
    ours, theirs = last_line(tmp_path / "two"), last_line(tmp_path / "one")
    for key in ("small/held_out_loss", "large/held_out_loss"):
        assert ours[key] == pytest.approx(theirs[key], rel=1e-4)
