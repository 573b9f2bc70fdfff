"""`vistill pretrain kdep`: a small CNN from a CNN, the fitted SVD kept, resumed, evaluated."""

import json
import subprocess
from pathlib import Path

import pytest
import timm
import torch
from command_line import CELLS, TORCHRUN, command, environment, run
from safetensors.torch import load_file

SETTINGS = [
    "data.image_size=32",
    "data.workers=0",
    "data.held_out=0.2",
    "train.global_batch_size=8",
    "train.device=cpu",
    "train.evaluate_every=2",
    "optim.lr=0.01",
]


def kdep(out: Path, *words: str, teacher: str = "timm/resnet10t") -> list[object]:
    return [
        *("pretrain", "kdep_resnet18", "--data", CELLS / "train", "--out", out),
        *("--teacher", teacher, "--teacher-weights", "random"),
        *("--student", "timm/regnetx_002", *SETTINGS, *words),
    ]


@pytest.mark.slow
def test_a_cnn_learns_from_a_cnn(tmp_path: Path) -> None:
    out, words = tmp_path / "run", ("method.wider=pad", "train.epochs=2")
    done = run(*kdep(out, *words))
    assert "student  timm/regnetx_002: 2.3 M parameters, 368 wide, 32 px" in done.stdout
    assert "fitted   22 pictures, channel std ratio" in done.stdout
    fitted = load_file(out / "fitted.safetensors")
    assert fitted["basis"].shape == (512, 22)
    assert int(fitted["count"]) == 22

    exported = load_file(out / "export" / "last" / "model.safetensors")
    description = json.loads((out / "export" / "last" / "model.json").read_text())
    timm.create_model(**description["timm"]).load_state_dict(exported, strict=True)

    # The same command, cut after one of its epochs, ends with the same weights and the same SVD.
    half = tmp_path / "half"
    written = (out / "fitted.safetensors").read_bytes()
    run(*kdep(half, *words, "train.checkpoint_steps=1"))
    for checkpoint in sorted((half / "checkpoints").iterdir())[1:]:
        checkpoint.unlink()
    assert (half / "fitted.safetensors").read_bytes() == written
    stamp = (half / "fitted.safetensors").stat().st_mtime_ns
    again = run(*kdep(half, *words, "train.checkpoint_steps=1"))
    assert "resuming after step 3 of 4" in again.stdout + again.stderr
    assert (half / "fitted.safetensors").stat().st_mtime_ns == stamp
    resumed = load_file(half / "export" / "last" / "model.safetensors")
    assert all(torch.equal(resumed[name], exported[name]) for name in exported)

    scores = tmp_path / "scores.json"
    run(
        *("evaluate", out, "--data", CELLS, "--protocols", "knn,linear,finetune"),
        *("--out", scores, "finetune.epochs=1", "finetune.min_steps=1", "workers=0"),
        *("linear.epochs=1", "device=cpu"),
    )
    assert {"knn", "linear", "finetune"} <= {
        s["protocol"] for s in json.loads(scores.read_text())["scores"]
    }


def test_too_wide_a_student_is_told_before_anything_is_written(tmp_path: Path) -> None:
    done = run(*kdep(tmp_path / "run"), expect=2)
    assert "has 368 channels and the teacher's only rank 21 on 22 pictures" in done.stderr
    assert "method.wider=pad" in done.stderr
    assert not (tmp_path / "run").exists()
    done = run(*kdep(tmp_path / "run", "method.align=identity"), expect=2)
    assert "needs equal widths" in done.stderr
    done = run(*kdep(tmp_path / "run", "method.transform=sn", "method.align=interpolate"), expect=2)
    assert "it needs method.align=svd" in done.stderr


@pytest.mark.slow
def test_two_ranks_fit_the_same_svd(tmp_path: Path) -> None:
    words = command(*kdep(tmp_path / "two", "method.wider=pad", "train.epochs=1"))
    done = subprocess.run(
        [*TORCHRUN, *words[1:]], capture_output=True, text=True, env=environment(), timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fitted   22 pictures") == 1
    run(*kdep(tmp_path / "one", "method.wider=pad", "train.epochs=1"))
    two, one = (load_file(tmp_path / name / "fitted.safetensors") for name in ("two", "one"))
    torch.testing.assert_close(two["mean"], one["mean"])
    torch.testing.assert_close(
        two["singular_values"][:20], one["singular_values"][:20], rtol=1e-5, atol=0
    )
