"""`vistill.pretrain` from Python: objects for models, mappings for settings, extras, exit codes."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer as TimmViT

import vistill
from vistill import cli
from vistill.errors import UserError
from vistill.models.adapters.any_transformer import ModuleBackbone
from vistill.models.build import create_backbone
from vistill.runs.exporting import require_format
from vistill.runs.places import usual_parts
from vistill.runs.reference import backbone_reference
from vistill.stopping import Interrupted
from vistill.training.errors import TrainingError

CELLS = Path(__file__).parents[2] / "data" / "cells"
SETTINGS = {
    "data.image_size": 32,
    "data.workers": 0,
    "data.held_out": 0.0,
    "train.epochs": 1,
    "train.global_batch_size": 9,
    "train.device": "cpu",
    "train.loggers": [],
    "optim.warmup_epochs": 0,
}


def tiny_module() -> TimmViT:
    torch.manual_seed(0)
    return TimmViT(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=0)


def wrapped(**arguments: Any) -> ModuleBackbone:
    return ModuleBackbone(
        tiny_module(),
        blocks="blocks",
        width=48,
        image_size=32,
        num_heads=3,
        norm="norm",
        qkv="attn.qkv",
        **arguments,
    )


def test_models_as_objects(tmp_path: Path) -> None:
    teacher, student = wrapped(), wrapped()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    result = vistill.pretrain(
        data=CELLS / "train",
        out=tmp_path / "run",
        teacher=teacher,
        student=student,
        overrides=SETTINGS | {"student.drop_path": 0.0},
    )
    assert result is not None
    assert result.steps == 3
    assert (result.backbone / "model.safetensors").exists()
    changed = [n for n, value in student.state_dict().items() if (value != before[n]).any()]
    assert "module.blocks.0.mlp.fc1.weight" in changed
    assert not any(p.requires_grad for p in teacher.parameters())
    assert student.origin == f"run {tmp_path / 'run'}"


def test_an_object_in_channels_last_is_saved(tmp_path: Path) -> None:
    student = wrapped()
    student.module.to(memory_format=torch.channels_last)
    vistill.pretrain(
        data=CELLS / "train",
        out=tmp_path / "run",
        teacher=wrapped(),
        student=student,
        overrides=SETTINGS | {"student.drop_path": 0.0},
    )
    saved = load_file(tmp_path / "run" / "export" / "last" / "model.safetensors")
    name = "patch_embed.proj.weight"
    assert torch.equal(saved[name], student.module.state_dict()[name])


def test_a_random_object_is_a_random_teacher(tmp_path: Path) -> None:
    teacher = create_backbone(
        "vit", image_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3
    )
    with pytest.raises(UserError, match="random weights"):
        vistill.pretrain(
            data=CELLS / "train", out=tmp_path / "run", teacher=teacher, overrides=SETTINGS
        )
    assert not (tmp_path / "run").exists()


def test_a_bare_module_is_told_how_to_come(tmp_path: Path) -> None:
    module: Any = tiny_module()
    with pytest.raises(UserError, match="ModuleBackbone"):
        vistill.pretrain(data=CELLS, out=tmp_path, teacher=module)
    with pytest.raises(UserError, match="ModuleBackbone"):
        vistill.evaluate(module, data=CELLS)
    with pytest.raises(UserError, match="ModuleBackbone"):
        vistill.export(module, out=tmp_path)


@pytest.mark.slow
def test_an_object_goes_to_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    backbone = wrapped()
    vistill.export(backbone, out=tmp_path, format="onnx")
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    tokens, _ = session.run(None, {"pixels": pixels.numpy()})
    with torch.no_grad():
        expected = backbone(backbone.normalization(pixels))
    torch.testing.assert_close(torch.from_numpy(tokens), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_what_torch_cannot_export_is_told(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    backbone = wrapped()
    norm: Any = backbone.module.norm
    norm.register_forward_hook(
        lambda module, inputs, output: output if output.sum() > 0 else -output
    )
    with pytest.raises(UserError, match="given as an object cannot be had as ONNX"):
        vistill.export(backbone, out=tmp_path / "out", format="onnx")
    assert not (tmp_path / "out").exists()


def test_a_broken_picture_is_named_once_by_training_and_probes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(CELLS / "train", tmp_path / "pictures")
    broken = sorted((tmp_path / "pictures").rglob("*.*"))[::9]
    for path in broken:
        path.write_bytes(b"")
    vistill.pretrain(
        data=tmp_path / "pictures",
        out=tmp_path / "run",
        teacher=wrapped(),
        student=wrapped(),
        overrides=SETTINGS
        | {"student.drop_path": 0.0, "train.epochs": 2, "data.max_broken": 1, "data.held_out": 0.3},
    )
    for path in broken:
        name = f"{path.parent.name}/{path.name}"
        assert sum(name in message for message in caplog.messages) == 1, caplog.messages


def test_an_absent_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    absent = {"wandb", "onnx"}
    for function in (vistill.pretrain, require_format):
        monkeypatch.setitem(
            function.__globals__,
            "find_spec",
            lambda name: None if name in absent else found(name),
        )
    with pytest.raises(UserError, match=r"pip install 'vistill\[wandb\]'"):
        vistill.pretrain("mae", data="x", out=tmp_path, overrides=["train.loggers=[wandb]"])
    with pytest.raises(UserError, match=r"pip install 'vistill\[onnx\]'"):
        vistill.export("x", out=tmp_path, format="onnx")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Interrupted("stopped; the same command continues", 15), 143, "stopped; the same"),
        (Interrupted("stopped", 2), 130, "stopped"),
        (TrainingError("loss of step 3 is not finite"), 1, "error: loss of step 3"),
    ],
)
def test_how_a_run_ends_is_the_exit_code(
    error: Exception,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def end(*args: object, **named: object) -> None:
        raise error

    monkeypatch.setattr("vistill.api.pretrain", end)
    assert cli.main(["pretrain", "mae", "--out", "x"]) == code
    assert capsys.readouterr().err.startswith(said)


def test_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("weights.pth").touch()
    assert backbone_reference("runs") == "run:runs"
    assert backbone_reference(Path("weights.pth")) == "file:weights.pth"
    assert backbone_reference("vit_tiny") == "vit_tiny"
    assert backbone_reference("timm/x:pretrained") == "timm/x:pretrained"
    with pytest.raises(UserError, match="runs is no finished run"):
        backbone_reference("runs", which="last")


def test_usual_subfolders_are_used(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert usual_parts(folder) == (folder, None)
    (tmp_path / "train").mkdir()
    assert usual_parts(folder) == (folder, None)
    (tmp_path / "test").mkdir()
    assert usual_parts(folder) == (f"{folder}/train", f"{folder}/test")
    (tmp_path / "val").mkdir()
    assert usual_parts(folder) == (f"{folder}/train", f"{folder}/val")


def test_training_on_test_pictures_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for data, told in ((CELLS, True), (CELLS / "train", False)):
        vistill.pretrain(
            "mae",
            data=data,
            out=tmp_path / "run",
            student="vit_tiny",
            dry_run=True,
            overrides=SETTINGS,
        )
        assert (f"give --data {CELLS / 'train'}" in capsys.readouterr().out) == told
