"""Detectors of transformers as students: from a folder, and back into one that the library
reads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from distilled_detectors import CELLS, QUICK

import vistill
from vistill.errors import UserError
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.backbone import Normalization
from vistill.models.build import create_backbone, load_backbone
from vistill.models.export import save_backbone

WIDTHS = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4}
RES_NET = WIDTHS | {"layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"]}
HYBRID = {
    "d_model": 16,
    "encoder_hidden_dim": 16,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_queries": 5,
    "num_denoising": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_labels": 3,
    "encoder_in_channels": [16, 24, 32],
    "decoder_in_channels": [16] * 3,
}
PLAIN = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "num_queries": 5,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_labels": 3,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
}
STAGES = {
    "stem_channels": [3, 4, 8],
    "stage_in_channels": [8, 8, 16, 24],
    "stage_mid_channels": [4] * 4,
    "stage_out_channels": [8, 16, 24, 32],
    "stage_num_blocks": [1] * 4,
    "stage_numb_of_layers": [1] * 4,
    "out_features": ["stage2", "stage3", "stage4"],
}
WINDOWS = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 112,
    "patch_size": 14,
    "num_windows": 2,
    "out_indices": [2, 4],
    "mlp_ratio": 2,
}
QUERIES = {
    "d_model": 32,
    "decoder_layers": 1,
    "num_queries": 5,
    "group_detr": 1,
    "num_labels": 3,
    "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 2,
    "decoder_ffn_dim": 16,
    "projector_num_blocks": 1,
}
RAW = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
USUAL = Normalization()


def detector(family: str) -> Any:
    """A small one with random weights."""
    torch.manual_seed(0)
    backbone: Any
    if family == "rf_detr":
        from transformers.models.rf_detr.configuration_rf_detr import RfDetrDinov2Config

        backbone, sizes, name = RfDetrDinov2Config(**WINDOWS), QUERIES, "RfDetr"
    elif family == "detr":
        backbone, sizes, name = transformers.ResNetConfig(**RES_NET), PLAIN, "Detr"
    elif family == "d_fine":
        backbone = transformers.HGNetV2Config(**WIDTHS, **STAGES)
        sizes, name = HYBRID, "DFine"
    else:
        backbone, sizes = transformers.RTDetrResNetConfig(**RES_NET), HYBRID
        name = "RTDetrV2" if family == "rt_detr_v2" else "RTDetr"
    config = getattr(transformers, f"{name}Config")(backbone_config=backbone, **sizes)
    return getattr(transformers, f"{name}ForObjectDetection")(config)


@pytest.mark.parametrize(
    ("family", "part", "normalization"),
    [
        ("rt_detr", "model.backbone.model", RAW),
        ("rf_detr", "model.backbone.backbone", USUAL),
        pytest.param("d_fine", "model.backbone.model", RAW, marks=pytest.mark.slow),
        pytest.param("rt_detr_v2", "model.backbone.model", RAW, marks=pytest.mark.slow),
        pytest.param("detr", "model.backbone.model", USUAL, marks=pytest.mark.slow),
    ],
)
def test_from_a_folder_and_back(
    family: str, part: str, normalization: Normalization, tmp_path: Path
) -> None:
    theirs = detector(family)
    theirs.save_pretrained(tmp_path / "theirs")
    found: Any = create_backbone(f"hf/{tmp_path}/theirs", image_size=112)
    assert isinstance(found, PooledBackbone)
    assert found.runs is found.module.get_submodule(part)
    assert found.normalization == normalization
    assert not found.untrained
    own = theirs.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in found.module.state_dict().items())
    with torch.no_grad():
        next(found.runs.parameters()).add_(1.0)
    save_backbone(found, tmp_path / "ours")
    back, report = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    own = found.module.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in back.state_dict().items())
    again, pixels = load_backbone(f"run:{tmp_path}/ours"), torch.rand(1, 3, 112, 112)
    assert torch.equal(again.eval().pooled(pixels), found.eval().pooled(pixels))


@pytest.mark.slow
def test_only_the_backbone_changes_and_the_library_trains_on(tmp_path: Path) -> None:
    theirs = detector("rt_detr")
    theirs.save_pretrained(tmp_path / "theirs")
    processor = transformers.RTDetrImageProcessor(do_normalize=True, image_mean=[0.1, 0.2, 0.3])
    processor.save_pretrained(tmp_path / "theirs")
    before = theirs.state_dict()
    weights = [name for name, _ in theirs.named_parameters()]
    learned = {name for name in weights if name.startswith("model.backbone.model.")}
    result = vistill.pretrain(
        "feature_distillation",
        data=CELLS / "train",
        out=tmp_path / "run",
        teacher="timm/resnet10t",
        teacher_weights="random",
        student=f"hf/{tmp_path}/theirs",
        overrides=QUICK | {"student.maps": [0, 1, 2]},
    )
    assert result is not None
    vistill.export(result.out, out=tmp_path / "out", format="torch")
    for place in (result.out / "export" / "last", tmp_path / "out"):
        back = transformers.AutoModelForObjectDetection.from_pretrained(place)
        after = back.state_dict()
        changed = {name for name in after if not torch.equal(after[name], before[name])}
        assert changed == learned  # its batch norms are frozen ones
        told = transformers.AutoImageProcessor.from_pretrained(place)
        assert list(told.image_mean) == [0.1, 0.2, 0.3]
    facts = json.loads((tmp_path / "out" / "model.json").read_text())
    assert facts["normalization"]["mean"] == [0.1, 0.2, 0.3]
    back.train()
    boxes = torch.tensor([[0.5, 0.5, 0.25, 0.25]])
    labels = [{"class_labels": torch.tensor([1]), "boxes": boxes}]
    back(pixel_values=torch.rand(1, 3, 64, 64), labels=labels).loss.backward()
    assert all(weight.grad is not None for weight in back.model.backbone.model.parameters())


def test_a_size_that_the_backbone_does_not_take(tmp_path: Path) -> None:
    detector("rf_detr").save_pretrained(tmp_path / "theirs")
    told = "backbone of RfDetrForObjectDetection cannot take pictures of 100"
    with pytest.raises(UserError, match=told):
        create_backbone(f"hf/{tmp_path}/theirs", image_size=100)
