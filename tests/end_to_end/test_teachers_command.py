"""Models of other libraries on the command line: measured, and as teachers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import CELLS, SIZES
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForImageClassification

from vistill.cli import main

WIDE: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
}
TINY = ["--data", "DATA", "--out", "x", "student.model=vit", *SIZES]
CNN: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders as `save_pretrained` writes them, with random weights."""
    root = tmp_path_factory.mktemp("teachers")
    torch.manual_seed(0)
    vit = CONFIG_MAPPING["dinov2"](**WIDE)
    AutoModel.from_config(vit).save_pretrained(root / "dinov2")
    resnet = CONFIG_MAPPING["resnet"](**CNN, embedding_size=8, layer_type="basic", num_labels=4)
    AutoModelForImageClassification.from_config(resnet).save_pretrained(root / "resnet")
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["hf/dinov2"],
        ["hf/resnet"],
        ["timm/resnet10t", "--random-init"],
        ["timm/vit_tiny_patch16_224", "--random-init"],
        ["timm/beit_base_patch16_224", "--random-init"],
    ],
    ids=lambda words: words[0],
)
def test_neighbours_and_probe_of_any_model(
    words: list[str], folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    create = timm.create_model
    depth = {"depth": 1} if "resnet" not in words[0] else {}
    monkeypatch.setattr(timm, "create_model", lambda *a, **named: create(*a, **depth, **named))
    monkeypatch.chdir(folders)
    quick = ["linear.epochs=1", "linear.min_steps=2", "workers=0", "device=cpu"]
    size = ["image_size=32"] if "resnet" in words[0] else []
    out = tmp_path / "scores.json"
    command = ["evaluate", *words, "--data", str(CELLS), "--protocols", "knn,linear"]
    assert main([*command, "--out", str(out), *size, *quick]) == 0
    scores = json.loads(out.read_text())["scores"]
    assert [score["protocol"] for score in scores] == ["knn", "linear"]


def test_a_folder_teaches_and_its_classifier_too(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(CELLS / "train"), "student.model=vit", *SIZES, "train.epochs=1"]
    dinov2, resnet = folders / "dinov2", folders / "resnet"
    out = str(tmp_path / "relations")
    command = ["pretrain", "tinymim", "--teacher", f"hf/{dinov2}", "teacher.block=2"]
    assert main([*command, "--out", out, *words]) == 0
    assert f"weights: hf/{dinov2}, of {dinov2}" in capsys.readouterr().out
    out = str(tmp_path / "scores")
    command = ["pretrain", "feature_distillation", "--teacher", f"hf/{resnet},classifier=keep"]
    assert main([*command, "method.target=logits", "--out", out, *words]) == 0
    assert "logits" in capsys.readouterr().out
    assert (tmp_path / "scores" / "export" / "best" / "model.safetensors").is_file()


def test_a_folder_is_the_same_teacher_by_any_spelling(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(folders)
    words = ["--data", str(CELLS / "train"), "student.model=vit", *SIZES, "train.epochs=1"]
    command = ["pretrain", "kdep", "--out", str(tmp_path / "run"), "method.align=interpolate"]
    for teacher in ("hf/resnet", f"hf/{folders / 'resnet'}"):
        assert main([*command, "--teacher", teacher, *words]) == 0
    assert "finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "hf/./dinov3", "--data", "DATA"], "no folder ./dinov3; did you mean"),
        (["evaluate", "hf/dinov2:best", "--data", "DATA"], "only ':pretrained' may follow"),
        (["export", "vit_tiny", "--out", "x"], "vit_tiny would have random weights"),
        (["export", "hf/dinov2", "--out", "x"], "use --format torch"),
        (["pretrain", "tinymim", "--teacher", "hf/resnet", *TINY], "the teacher has none"),
    ],
)
def test_mistakes_with_other_libraries(
    words: list[str],
    message: str,
    folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folders)
    words = [str(CELLS / "train") if word == "DATA" else word for word in words]
    assert main([str(tmp_path / "x") if word == "x" else word for word in words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "x").exists()


def test_random_weights_are_exported_on_demand(tmp_path: Path) -> None:
    assert main(["export", "vit_tiny", "--random-init", "--out", str(tmp_path / "x")]) == 0
    assert (tmp_path / "x" / "model.safetensors").is_file()
