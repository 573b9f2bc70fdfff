"""`vistill export --format onnx`: the feature that was measured, whatever the family."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from timm_families import build_smaller, student

import vistill
from vistill.cli import main
from vistill.models import onnx_files
from vistill.models.backbone import Backbone
from vistill.models.build import create_backbone

onnxruntime = pytest.importorskip("onnxruntime")
SIZES = {"image_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 2}
SLOW = (
    *("efficientformerv2_s0", "eva02_tiny_patch14_224", "beit_base_patch16_224"),
    *(
        pytest.param(name, marks=pytest.mark.by_hand)
        for name in (
            *("ghostnet_050", "edgenext_xx_small", "repvit_m1"),
            *("swinv2_tiny_window8_256", "test_maxvit"),
        )
    ),
)


def check(backbone: Backbone, folder: Path, sizes: list[tuple[int, int]]) -> None:
    backbone.untrained = False
    vistill.export(backbone, out=folder, format="onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    for count, size in enumerate(sizes, 1):
        pixels = torch.rand(count, 3, *size)
        tokens, pooled = session.run(None, {"pixels": pixels.numpy()})
        with torch.no_grad():
            images = backbone.normalization(pixels)
            expected = backbone.pooled(images).numpy()
            same = backbone(images).numpy()
        np.testing.assert_allclose(pooled, expected, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_allclose(tokens, same, atol=1e-4 * np.abs(same).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_mambaout", "test_convnext"])
def test_the_head_norm_of_a_cnn_is_in_the_feature_and_its_sides_are_free(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_smaller(monkeypatch)
    check(student(name, 64), tmp_path, [(64, 64), (96, 64), (64, 128)])
    told = json.loads((tmp_path / "onnx.json").read_text())
    assert told["input"]["pixels"] == ["batch", 3, "height", "width"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_families_whose_steps_are_hard_to_translate(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_smaller(monkeypatch)
    backbone = student(name, 64)
    check(backbone, tmp_path, [backbone.image_size] * 3)


@pytest.mark.slow
def test_weights_beyond_protobufs_limit_lie_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_files, "_LARGEST", 1000)
    backbone = create_backbone("vit", **SIZES).eval()
    check(backbone, tmp_path, [(32, 32), (32, 32)])
    names = ["model.onnx", "model.onnx.data", "onnx.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (tmp_path / "model.onnx.data").stat().st_size > 50_000
    assert b"made_for" in (tmp_path / "onnx.json").read_bytes()
    monkeypatch.undo()
    check(backbone, tmp_path, [(32, 32)])
    assert not (tmp_path / "model.onnx.data").exists()


def test_what_cannot_be_translated_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = student("test_resnet", 64)
    backbone.untrained = False

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("Unexpected key _export_root.b.module")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(vistill.errors.UserError, match="cannot be had as ONNX: torch"):
        vistill.export(backbone, out=tmp_path / "out", format="onnx")
    assert not (tmp_path / "out").exists()


def test_an_object_without_trained_weights_is_told_by_where_it_is_from(tmp_path: Path) -> None:
    with pytest.raises(vistill.errors.UserError, match=r"^timm/test_resnet, random would") as e:
        vistill.export(student("test_resnet", 64), out=tmp_path / "out", format="onnx")
    assert "\n" not in str(e.value)


@pytest.mark.slow
def test_families_that_cannot_be_read_are_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--random-init", "--format", "onnx", "--out", str(tmp_path / "out")]
    for name in ("hiera_tiny_224", "levit_128s"):
        assert main(["export", f"timm/{name}", *words]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"error: timm/{name} cannot be read: ")
        assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_among_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    words = ["export", "vit_tiny", "--random-init", "--out"]
    assert main([*words, str(tmp_path)]) == 2
    assert "holds other files, such as config.json" in capsys.readouterr().err
    assert (tmp_path / "model.safetensors").read_bytes() == b"mine"
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "checkpoint.pth").write_bytes(b"mine")
    assert main([*words, str(tmp_path / "lone"), "--format", "mae"]) == 2
    for form in ("timm", "mae", "timm"):  # an export may be written over
        assert main([*words, str(tmp_path / "own"), "--format", form]) == 0
