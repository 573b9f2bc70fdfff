"""Models with weights are pooled as their own library pools them; students by a mean."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from transformers import (
    BeitConfig,
    BeitModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    TextNetConfig,
    TextNetModel,
)

import vistill
from vistill.config.methods import KDEPConfig
from vistill.errors import UserError
from vistill.methods.kdep import KDEP
from vistill.models.adapters.timm import read_module
from vistill.models.backbone import BY_ITSELF, OVER_OWN, Backbone, Tap
from vistill.models.build import create_backbone, load_backbone
from vistill.models.export import read_backbone, save_backbone

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}


def stirred(module: Any) -> Any:
    """With norms and biases that have learned something."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() < 2:
                parameter += 0.1 * torch.randn_like(parameter)
    return module.eval()


def folder(module: Any, where: Path) -> str:
    stirred(module).save_pretrained(where)
    return f"hf/{where}"


def comes_back(model: Backbone, where: Path) -> None:
    save_backbone(model, where)
    images = torch.randn(2, 3, *model.image_size)
    again = read_backbone(where).eval()
    assert again.pools_itself == model.pools_itself
    torch.testing.assert_close(again.pooled(images), model.pooled(images))


@torch.no_grad()
def test_attention_pooling_is_read_where_its_weights_are(tmp_path: Path) -> None:
    module = SiglipVisionModel(SiglipVisionConfig(**SMALL))
    spec, images = folder(module, tmp_path / "model"), torch.randn(2, 3, 32, 32)
    model = load_backbone(spec).eval()
    own = module(images)
    torch.testing.assert_close(model.pooled(images), own.pooler_output)
    tokens, pooled = model.tokens_and_pooled(images)
    torch.testing.assert_close(tokens, own.last_hidden_state)
    torch.testing.assert_close(pooled, own.pooler_output)
    assert model.reads == BY_ITSELF
    tap, block = Tap("pooled_act", 0), Tap("block", 1)
    found = model.tap(images, [block, tap])
    torch.testing.assert_close(found[tap], own.pooler_output)
    assert found[block].shape == (2, 16, 32)
    comes_back(model, tmp_path / "export")
    student = create_backbone(spec).eval()
    assert student.reads == OVER_OWN
    torch.testing.assert_close(student.pooled(images), student(images).mean(dim=1))
    comes_back(student, tmp_path / "student")


@pytest.mark.slow
@torch.no_grad()
def test_attention_pooling_leaves_as_onnx_without_a_word_of_the_translator(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    spec = folder(SiglipVisionModel(SiglipVisionConfig(**SMALL)), tmp_path / "model")
    model = load_backbone(spec).eval()
    vistill.export(spec, out=tmp_path / "out", format="onnx")
    assert not [record for record in caplog.records if record.name.startswith("onnxscript")]
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    pixels = torch.rand(3, 3, 32, 32)
    _, pooled = session.run(None, {"pixels": pixels.numpy()})
    own = model.module(model.normalization(pixels)).pooler_output
    torch.testing.assert_close(torch.from_numpy(pooled), own, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_the_norm_of_a_pooler_is_part_of_the_feature(tmp_path: Path) -> None:
    module, images = BeitModel(BeitConfig(**SMALL)), torch.randn(2, 3, 32, 32)
    model = load_backbone(folder(module, tmp_path / "model")).eval()
    torch.testing.assert_close(model.pooled(images), module(images).pooler_output)
    comes_back(model, tmp_path / "export")
    bare = BeitModel(BeitConfig(**SMALL), add_pooling_layer=False)
    model = load_backbone(folder(bare, tmp_path / "bare")).eval()
    last = bare(images).last_hidden_state
    torch.testing.assert_close(model.pooled(images), last[:, 1:].mean(dim=1))
    comes_back(model, tmp_path / "bare_export")


@torch.no_grad()
def test_a_map_that_is_pooled_already_is_not_the_last_map(tmp_path: Path) -> None:
    sizes = {"hidden_sizes": [8, 8, 16, 16, 32], "stem_out_channels": 8}
    layers = {
        "conv_layer_kernel_sizes": [[[3, 3]], [[3, 3]], [[3, 1]], [[3, 3]]],
        "conv_layer_strides": [[2], [2], [2], [2]],
    }
    module = TextNetModel(TextNetConfig(image_size=64, **sizes, **layers))
    images, last = torch.randn(2, 3, 64, 64), Tap("map_act", 0)
    model = load_backbone(folder(module, tmp_path)).eval()
    own = module(images)
    torch.testing.assert_close(model.tap(images, [last])[last], own.last_hidden_state)
    torch.testing.assert_close(model.pooled(images), own.pooler_output.flatten(1))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("cait_xxs24_224", {"depth": 2}),
        ("samvit_base_patch16_224", {"depth": 2, "embed_dim": 64, "num_heads": 2}),
        ("mobilenetv3_small_050", {}),
        ("test_mambaout", {}),
    ],
)
def test_layers_behind_the_mean_are_those_of_timm(name: str, more: dict[str, Any]) -> None:
    size = {} if name.startswith(("mobile", "test_")) else {"img_size": 64}
    module = stirred(timm.create_model(name, num_classes=0, **size, **more))
    module.pretrained_cfg["input_size"] = (3, 64, 64)
    model = read_module(module, name, 64, None).eval()
    assert model.reads == OVER_OWN
    model.pool_itself()
    images = torch.randn(2, 3, 64, 64)
    own = module.forward_head(module.forward_features(images), pre_logits=True).flatten(1)
    torch.testing.assert_close(model.pooled(images), own)
    assert model.feature_width == own.shape[1]
    student = create_backbone("timm/test_resnet", image_size=64)
    kdep = KDEP(student, model, KDEPConfig(wider="pad"))
    assert kdep.widths["feature"] == own.shape[1]


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0"])
def test_torchvisions_classifiers_are_given_the_mean(name: str) -> None:
    model: Any = stirred(create_backbone(f"torchvision/{name}", image_size=64))
    assert model.reads == ""
    heads = model.module.fc if name == "resnet18" else model.module.classifier
    linear = next(part for part in heads.modules() if isinstance(part, nn.Linear))
    seen: list[Tensor] = []
    linear.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = torch.randn(2, 3, 64, 64)
    model.module(images)
    torch.testing.assert_close(model.pooled(images), seen[0])


def test_a_detector_without_a_backbone_has_no_last_tokens_of_patches(tmp_path: Path) -> None:
    config = {"model_type": "yolos", "hidden_size": 16, "num_hidden_layers": 2, "patch_size": 8}
    config |= {"num_attention_heads": 2, "intermediate_size": 16, "image_size": [64, 64]}
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_detection_tokens": 5}))
    with pytest.raises(
        UserError, match="a yolos, cannot be read: the 70 tokens of its blocks are no"
    ):
        load_backbone(f"hf/{tmp_path}")


@torch.no_grad()
def test_the_map_and_the_own_feature_of_a_cnn_take_one_pass() -> None:
    torch.manual_seed(0)
    module = timm.create_model("mobilenetv3_small_050", num_classes=0)
    model = read_module(module, "timm/mobilenetv3_small_050", None, None).eval()
    model.pool_itself()
    passes: list[nn.Module] = []
    module.conv_stem.register_forward_hook(lambda part, *_: passes.append(part))
    images = torch.randn(1, 3, *model.image_size)
    tokens, pooled = model.tokens_and_pooled(images)
    assert len(passes) == 1
    torch.testing.assert_close(tokens, model(images))
    torch.testing.assert_close(pooled, model.pooled(images))
