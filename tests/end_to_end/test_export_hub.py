"""Folders in timm's and transformers' layouts load there and compute the same; their cards say
where the weights come from."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from command_line import CELLS

import vistill
from vistill.errors import UserError
from vistill.evaluation.classifier import Classifier
from vistill.evaluation.saved_classifier import save_classifier
from vistill.models.backbone import Backbone
from vistill.models.build import create_backbone, load_backbone
from vistill.models.vit import VisionTransformer

transformers = pytest.importorskip("transformers")


def vit(**given: Any) -> VisionTransformer:
    torch.manual_seed(0)
    sizes = {"image_size": (24, 32), "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    made = VisionTransformer(**(sizes | given))
    for parameter in made.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    made.untrained = False
    return made.eval()


def pictures(model: Backbone) -> torch.Tensor:
    return torch.randn(2, 3, *model.image_size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({}, "ViTModel"),
        ({"position": "learned", "qkv_bias": "none"}, "ViTModel"),
        ({"position": "none", "norm_eps": 1e-5}, "ViTModel"),
        ({"distillation_token": True}, "DeiTModel"),
        ({"layer_scale": 0.1, "image_size": 24}, "Dinov2Model"),
    ],
)
@torch.no_grad()
def test_a_plain_vit_in_both_layouts(tmp_path: Path, given: dict[str, Any], kind: str) -> None:
    model = vit(**given)
    seen = pictures(model)
    vistill.export(model, out=tmp_path / "hf", format="transformers")
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    assert type(theirs).__name__ == kind
    torch.testing.assert_close(theirs(seen).last_hidden_state, model(seen), atol=1e-5, rtol=1e-5)
    again = vistill.load_backbone(f"hf/{tmp_path / 'hf'}")
    torch.testing.assert_close(again.pooled(seen), model.pooled(seen), atol=1e-5, rtol=1e-5)
    shown = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    pixels = torch.randint(0, 255, (3, 40, 60), dtype=torch.uint8)
    assert shown(pixels, return_tensors="pt")["pixel_values"].shape == (1, 3, *model.image_size)
    if given.get("norm_eps") is None:  # which timm's plain ViTs have not
        vistill.export(model, out=tmp_path / "timm")
        loaded = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
        feature = json.loads((tmp_path / "timm" / "model.json").read_text())["feature"]
        found = eval(feature, {"model": loaded, "x": seen})
        torch.testing.assert_close(found, model.pooled(seen), atol=1e-5, rtol=1e-5)
        assert loaded.pretrained_cfg["mean"] == list(model.normalization.mean)


@pytest.mark.parametrize("name", ["resnet10t", "resnet18"])
@torch.no_grad()
def test_resnets(tmp_path: Path, name: str) -> None:
    model = load_backbone(f"timm/{name}", image_size=32).eval()
    model.untrained = False
    if name == "resnet10t":  # its stem has three convolutions
        with pytest.raises(UserError, match="transformers has no model that computes what"):
            vistill.export(model, out=tmp_path / "hf", format="transformers")
        assert not (tmp_path / "hf").exists()
        return
    vistill.export(model, out=tmp_path / "hf", format="transformers")
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    found = theirs(pictures(model)).pooler_output.flatten(1)
    torch.testing.assert_close(found, model.pooled(pictures(model)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pool", ["cls", "avg"])
@torch.no_grad()
def test_a_classifier_in_both_layouts(tmp_path: Path, pool: str) -> None:
    made = Classifier(vit(), 3, pool=pool).eval()  # type: ignore[arg-type]
    torch.nn.init.normal_(made.head.weight)
    save_classifier(made, tmp_path / "kept", ["a", "b", "c"], None)
    ours = vistill.load_classifier(tmp_path / "kept")
    seen = pictures(ours.backbone)
    vistill.export(tmp_path / "kept", out=tmp_path / "timm")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    torch.testing.assert_close(theirs(seen), ours.of_images(seen), atol=1e-4, rtol=1e-4)
    assert theirs.pretrained_cfg["label_names"] == ["a", "b", "c"]
    if pool == "avg":
        with pytest.raises(UserError, match="transformers has no classifier that computes what"):
            vistill.export(tmp_path / "kept", out=tmp_path / "hf", format="transformers")
        return
    vistill.export(tmp_path / "kept", out=tmp_path / "hf", format="transformers")
    auto = transformers.AutoModelForImageClassification
    theirs = auto.from_pretrained(tmp_path / "hf").eval()
    torch.testing.assert_close(theirs(seen).logits, ours.of_images(seen), atol=1e-4, rtol=1e-4)
    assert theirs.config.id2label == {0: "a", 1: "b", 2: "c"}


def test_what_transformers_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="transformers has no model that computes what"):
        vistill.export(vit(layer_scale=0.1), out=tmp_path / "hf", format="transformers")
    model = create_backbone("vit", image_size=16, patch_size=8, embed_dim=32, depth=1, num_heads=2,
                            class_token=False)  # fmt: skip
    model.untrained = False
    with pytest.raises(UserError, match="use --format timm, --format torch or --format onnx"):
        vistill.export(model, out=tmp_path / "hf", format="transformers")
    assert not (tmp_path / "hf").exists()


def test_a_run_tells_its_card_where_it_comes_from(mae_run: Path, tmp_path: Path) -> None:
    files = vistill.export(mae_run, out=tmp_path / "timm")
    assert {"README.md", "config.json"} <= {path.name for path in files}
    text = (tmp_path / "timm" / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert (front["library_name"], front["license"]) == ("timm", "unknown")
    assert "| method | mae |" in text
    assert f"| pictures | {CELLS / 'train'} |" in text
    assert "| `train.epochs` | `2` |" in text
    assert "Teacher: not known here. Pictures: not known here." in text
    assert "loss at the end" in text
    again = vistill.export(mae_run, out=tmp_path / "timm", format="torch")
    assert {path.name for path in (tmp_path / "timm").iterdir()} == {path.name for path in again}
