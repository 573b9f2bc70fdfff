"""A fine-tuned classifier goes home: equal in timm, ONNX and vistill, with its class names."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from command_line import CELLS
from safetensors.torch import load_file

import vistill
from vistill.evaluation.classifier import Classifier
from vistill.evaluation.saved_classifier import save_classifier
from vistill.models.backbone import Backbone
from vistill.models.build import create_backbone

CLASSES = ["platelets", "red", "white"]
QUICK = {"workers": 0, "device": "cpu", "finetune.epochs": 1, "finetune.min_steps": 4}


@pytest.fixture(scope="module")
def kept(mae_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was fine-tuned and kept."""
    folder = tmp_path_factory.mktemp("tuned") / "kept"
    overrides = QUICK | {"finetune.keep": str(folder)}
    vistill.evaluate(mae_run, data=CELLS, protocols=["finetune"], overrides=overrides)
    return folder / "labels-1-seed-0"


def pixels(count: int, size: tuple[int, int]) -> torch.Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(count))


def in_timm(folder: Path) -> tuple[Any, dict[str, Any]]:
    description = json.loads((folder / "model.json").read_text())
    model = timm.create_model(**description["timm"]).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return model, description


@pytest.mark.slow
def test_timm_onnx_and_vistill_agree(kept: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    ours = vistill.load_classifier(kept)
    for format in ("timm", "torch", "onnx"):
        vistill.export(kept, out=tmp_path / format, format=format)
    model, description = in_timm(tmp_path / "timm")
    told = json.loads((tmp_path / "onnx" / "onnx.json").read_text())
    assert ours.classes == description["classes"] == told["classes"]
    assert len(set(ours.classes)) == 3
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    for count in (1, 3):
        given = pixels(count, ours.backbone.image_size)
        with torch.no_grad():
            expected = ours(given)
            torch.testing.assert_close(model(ours.backbone.normalization(given)), expected)
            for format in ("timm", "torch"):
                again = vistill.load_classifier(tmp_path / format)
                assert again.classes == ours.classes
                torch.testing.assert_close(again(given), expected)
        logits, probabilities = session.run(None, {"pixels": given.numpy()})
        np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)
        np.testing.assert_allclose(probabilities, expected.softmax(1).numpy(), atol=1e-4)
    scores = [
        vistill.evaluate(
            folder,
            data=CELLS / "test",
            protocols=["test"],
            overrides={"workers": 0, "device": "cpu"},
        )
        for folder in (kept, tmp_path / "timm", tmp_path / "torch")
    ]
    assert len({one.scores[0].top1 for one in scores}) == 1


def learned(backbone: Backbone, pool: str) -> Classifier:
    classifier = Classifier(backbone, 3, pool=pool, seed=1).eval()
    with torch.no_grad():
        for parameter in classifier.parameters():
            if parameter.dim() < 2:
                parameter += 0.1 * torch.randn_like(parameter)
        classifier.head.weight.normal_()
    return classifier


SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 16}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "changes", "pool"),
    [
        ("vit", SMALL, "avg"),
        ("vit", SMALL, "cls"),
        ("vit", SMALL | {"class_token": False, "layer_scale": 0.1}, "avg"),
        ("vit", SMALL | {"relative_position": "layer", "qkv_bias": "no_key"}, "avg"),
        ("vit", SMALL | {"relative_position": "layer", "qkv_bias": "no_key"}, "cls"),
        ("timm/test_resnet", {}, "avg"),
        ("timm/test_convnext", {}, "avg"),
        ("timm/test_efficientnet", {}, "avg"),
        ("timm/test_vit_relpos", {}, "avg"),
        ("timm/test_maxvit", {}, "avg"),
    ],
)
def test_heads_of_every_kind_load_into_timm(
    spec: str, changes: dict[str, Any], pool: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    classifier = learned(create_backbone(spec, image_size=64, **changes).eval(), pool)
    classifier.student.untrained = False
    save_classifier(classifier, tmp_path / "kept", CLASSES, None)
    vistill.export(tmp_path / "kept", out=tmp_path / "timm")
    model, description = in_timm(tmp_path / "timm")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), classifier.logits(images), atol=1e-4, rtol=1e-4)
    assert description["classes"] == CLASSES
    again = vistill.load_classifier(tmp_path / "timm")
    with torch.no_grad():
        torch.testing.assert_close(again.of_images(images), classifier.logits(images))


@pytest.mark.slow
def test_a_head_that_timm_has_no_place_for_is_refused(tmp_path: Path) -> None:
    classifier = learned(create_backbone("timm/mobilenetv3_small_050", image_size=64).eval(), "avg")
    save_classifier(classifier, tmp_path / "kept", CLASSES, None)
    with pytest.raises(vistill.errors.UserError, match="timm has no classifier like"):
        vistill.export(tmp_path / "kept", out=tmp_path / "timm")
    assert not (tmp_path / "timm").exists()
    vistill.export(tmp_path / "kept", out=tmp_path / "torch", format="torch")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        again = vistill.load_classifier(tmp_path / "torch")
        torch.testing.assert_close(again.of_images(images), classifier.logits(images))
