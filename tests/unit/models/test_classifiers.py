"""Models that keep their classifier: the `logits` tap of every library, and who learns from it."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torchvision.models import resnet18

from vistill.batch import Batch
from vistill.config.methods import FeatureDistillationConfig
from vistill.errors import UserError
from vistill.methods.feature_distillation import FeatureDistillation
from vistill.models.adapters.any_transformer import ModuleBackbone
from vistill.models.backbone import Tap
from vistill.models.build import load_backbone
from vistill.models.export import read_backbone, save_backbone
from vistill.models.timm_form import inner_module
from vistill.models.vit import VisionTransformer

LOGITS = FeatureDistillationConfig(target="logits")


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("timm/deit_tiny_patch16_224", 32),
        ("timm/deit_tiny_distilled_patch16_224", 32),
        ("timm/vit_tiny_r_s16_p8_224", 32),
        ("timm/resnet10t", 32),
        ("torchvision/mobilenet_v3_small", 32),
    ],
)
def test_scores_are_the_librarys(name: str, size: int, tmp_path: Path) -> None:
    model = load_backbone(f"{name},classifier=keep", image_size=size).eval()
    pictures, tap = torch.randn(2, 3, size, size), Tap("logits", model.depth)
    scores = model.tap(pictures, [tap])[tap]
    if isinstance(model, VisionTransformer):
        theirs = timm.create_model(name.removeprefix("timm/"), img_size=size).eval()
        theirs.load_state_dict(model.state_dict())
        torch.testing.assert_close(scores, theirs(pictures), rtol=0, atol=1e-5)
    else:
        assert torch.equal(scores, inner_module(model)(pictures))
    assert scores.shape == (2, 1000)
    save_backbone(model, tmp_path)
    again = read_backbone(tmp_path).eval()
    assert torch.equal(again.tap(pictures, [tap])[tap], scores)


@torch.no_grad()
def test_scores_beside_other_taps_are_the_same() -> None:
    model = load_backbone("timm/resnet10t,classifier=keep", image_size=32).eval()
    pictures = torch.randn(2, 3, 32, 32)
    kinds = ("map", "map_act", "pooled_act", "logits")
    together = model.tap(pictures, [Tap(kind, 0) for kind in kinds])
    for tap, signal in together.items():
        assert torch.equal(model.tap(pictures, [tap])[tap], signal)
    assert together[Tap("map", 0)].min() < 0 <= together[Tap("map_act", 0)].min()


@pytest.mark.slow
@torch.no_grad()
def test_a_classifier_in_a_file_of_a_cnn(tmp_path: Path) -> None:
    original = resnet18(num_classes=7).eval()
    torch.save(original.state_dict(), tmp_path / "seven.pth")
    model = load_backbone(f"file:{tmp_path / 'seven.pth'},classifier=keep").eval()
    pictures, tap = torch.randn(2, 3, 64, 64), Tap("logits", 0)
    assert torch.equal(model.tap(pictures, [tap])[tap], original(pictures))
    save_backbone(model, tmp_path / "export")
    again = read_backbone(tmp_path / "export").eval()
    assert torch.equal(again.tap(pictures, [tap])[tap], original(pictures))
    assert "logits" not in load_backbone(f"file:{tmp_path / 'seven.pth'}").taps
    headless = {k: v for k, v in original.state_dict().items() if not k.startswith("fc.")}
    torch.save(headless, tmp_path / "headless.pth")
    with pytest.raises(UserError, match="holds no classifier"):
        load_backbone(f"file:{tmp_path / 'headless.pth'},classifier=keep")


@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/squeezenet1_1"])
def test_scores_teach(name: str) -> None:
    torch.manual_seed(0)
    teacher = load_backbone(f"{name},classifier=keep", image_size=64)
    sizes: Any = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    student = VisionTransformer(**sizes)
    method = FeatureDistillation(student, teacher, LOGITS)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    batch = Batch(pixels=pixels, seeds=torch.arange(2), ids=torch.arange(2))
    losses = method(batch)
    losses.total.backward()
    assert losses.total > 0
    assert student.blocks[0].attn.qkv.weight.grad is not None


@pytest.mark.slow
def test_absent_classifiers_are_told() -> None:
    with pytest.raises(UserError, match="has no classifier to keep"):
        load_backbone("timm/vit_small_patch16_224.dino,classifier=keep", image_size=32)
    plain = load_backbone("timm/resnet10t", image_size=32)
    with pytest.raises(UserError, match=",classifier=keep behind its name"):
        FeatureDistillation(plain, plain, LOGITS)


def test_a_tap_that_is_not_offered_is_named() -> None:
    module = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.Identity()])})
    model = ModuleBackbone(module, blocks="blocks", width=4)
    with pytest.raises(ValueError, match=r"this module of 1 blocks has no tap Tap\(kind='qkv'"):
        model.tap(torch.zeros(1, 3, 8, 8), [Tap("qkv", 1)])
