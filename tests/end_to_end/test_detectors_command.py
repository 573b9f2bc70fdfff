"""`vistill pretrain` with detectors as students: trained, cut and resumed, exported, and trained on
in their own package."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from command_line import CELLS, run
from safetensors.torch import load_file
from torchvision.models import get_model

NAME = "ssdlite320_mobilenet_v3_large"
SETTINGS = [
    *("data.image_size=64", "data.workers=0", "data.held_out=0", "train.global_batch_size=9"),
    *("train.device=cpu", "train.epochs=2", "train.checkpoint_steps=2", "train.precision=fp32"),
    *("optim.warmup_epochs=0", "optim.lr=0.001"),
]


def words(student: str, out: Path, *more: str) -> list[object]:
    return [
        *("pretrain", "feature_distillation", "--data", CELLS / "train", "--out", out),
        *("--teacher", "timm/resnet10t", "--teacher-weights", "random"),
        *("--student", student, *SETTINGS, *more),
    ]


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    assert after.keys() == before.keys()
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


@pytest.mark.slow
def test_a_detector_of_torchvision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = get_model(NAME, weights=None, weights_backbone=None, num_classes=4).state_dict()
    torch.save(before, tmp_path / "mine.pth")
    student, maps = f"torchvision/{NAME}:{tmp_path}/mine.pth", "student.maps=[0,1]"
    done = run(*words(student, tmp_path / "run", maps))
    assert "map2" in done.stdout
    run("export", tmp_path / "run", "--out", tmp_path / "out", "--format", "torch")
    after = load_file(tmp_path / "out" / "model.safetensors")
    body = {name for name in before if name.startswith("backbone.features.")}
    assert changed(before, after) == body
    fresh = get_model(NAME, weights=None, weights_backbone=None, num_classes=4)
    fresh.load_state_dict(after, strict=True)
    targets = [{"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([1])}] * 2
    losses = fresh.train()(list(torch.rand(2, 3, 64, 64)), targets)
    torch.stack([*losses.values()]).sum().backward()
    assert all(weight.grad is not None for weight in fresh.backbone.features.parameters())

    # Cut behind its first epoch, the same command ends with the same weights.
    half = tmp_path / "half"
    shutil.copytree(tmp_path / "run", half)
    shutil.rmtree(half / "export")
    for checkpoint in sorted((half / "checkpoints").iterdir())[1:]:
        checkpoint.unlink()
    resumed = run(*words(student, half, maps))
    assert "resuming after step" in resumed.stdout + resumed.stderr
    again = load_file(half / "export" / "last" / "model.safetensors")
    assert not changed(load_file(tmp_path / "run" / "export" / "last" / "model.safetensors"), again)


@pytest.mark.slow
def test_a_detector_of_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32]}
    resnet = transformers.RTDetrResNetConfig(
        **sizes, depths=[1] * 4, layer_type="basic", out_features=["stage2", "stage3", "stage4"]
    )
    config = transformers.RTDetrConfig(
        backbone_config=resnet, encoder_in_channels=[16, 24, 32], decoder_in_channels=[16] * 3,
        d_model=16, encoder_hidden_dim=16, decoder_layers=1, num_queries=5, num_labels=3,
        freeze_backbone_batch_norms=False,
    )  # fmt: skip
    theirs = transformers.RTDetrForObjectDetection(config)
    theirs.save_pretrained(tmp_path / "theirs")
    told = run(*words(f"hf/{tmp_path}/theirs", tmp_path / "run", "student.maps=[0,1,2]"))
    assert "map3" in told.stdout
    run("export", tmp_path / "run", "--out", tmp_path / "out", "--format", "torch")
    back = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path / "out")
    found = changed(theirs.state_dict(), back.state_dict())
    assert found == {name for name in back.state_dict() if name.startswith("model.backbone.model.")}
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}]
    back.train()(pixel_values=torch.rand(1, 3, 64, 64), labels=labels).loss.backward()

    mistaken = words(f"hf/{tmp_path}/theirs", tmp_path / "other", "student.maps=[3]")
    wrong = run(*mistaken, expect=2)
    assert "there is no part or map '3' in RTDetrResNetBackbone; near:" in wrong.stderr
    assert not (tmp_path / "other").exists()
