"""`vistill pretrain feature_distillation` from a random teacher, then `vistill evaluate`."""

import json
from pathlib import Path

import pytest
import timm
import torch
from command_line import CELLS, SIZES, run
from safetensors.torch import load_file

import vistill
from vistill.models.swin import SwinBackbone

STUDENT = [
    "student.model=vit",
    *(word for word in SIZES if not word.startswith("optim.")),
    "student.position=none",
    "student.relative_position=shared",
    "student.layer_scale=0.1",
    "student.qkv_bias=no_key",
    "student.initialization=truncated",
    "student.drop_path=0.1",
    "train.epochs=2",
    "optim.warmup_epochs=1",
    "optim.warmup_lr=1e-5",
]


def test_a_student_learns_the_map_of_a_larger_teacher(tmp_path: Path) -> None:
    out = tmp_path / "fd"
    teacher = ["--teacher", "vit_tiny", "--teacher-weights", "random", "teacher.image_size=64"]
    done = run(
        *("pretrain", "feature_distillation", "--data", CELLS / "train", "--out", out),
        *(*teacher, *STUDENT),
    )
    assert "feature_distillation" in done.stdout
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rates = [line["lr"] for line in lines if "lr" in line]
    assert rates[0] == 1e-5
    held_out = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    assert held_out[-1] < held_out[0]

    description = json.loads((out / "export" / "best" / "model.json").read_text())
    theirs = timm.create_model(**description["timm"]).eval()
    weights = load_file(out / "export" / "best" / "model.safetensors")
    theirs.load_state_dict(weights, strict=True)
    ours = vistill.load_backbone(out)
    images = ours.normalization(torch.rand(2, 3, 32, 32))
    with torch.no_grad():
        torch.testing.assert_close(theirs.forward_features(images), ours(images))

    words = ["--data", CELLS, "--protocols", "knn,finetune", "workers=0", "device=cpu"]
    quick = ["finetune.epochs=1", "finetune.min_steps=2", "--out", tmp_path / "scores.json"]
    run("evaluate", out, *words, *quick, "image_size=48")
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert [score["protocol"] for score in scores] == ["knn", "finetune"]


@pytest.mark.slow
def test_a_swin_learns_from_a_swin(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = SwinBackbone(
        version=1,
        image_size=64,
        embed_dim=16,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 1, 1),
        window_size=4,
    )
    out = tmp_path / "swin"
    words = [word for word in SIZES if word.startswith(("train.", "data.workers", "data.held"))]
    result = vistill.pretrain(
        "feature_distillation",
        data=CELLS / "train",
        out=out,
        teacher=teacher,
        teacher_weights="random",
        student="swinv2_tiny",
        overrides=[*words, "data.image_size=64", "train.epochs=1", "optim.warmup_epochs=0"],
    )
    assert result.steps == 2
    student = vistill.load_backbone(out)
    assert isinstance(student, SwinBackbone)
    assert student.depth == 12
