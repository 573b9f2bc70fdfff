"""torchvision's models: ViTs become our own, all are shown what their weights were trained on."""

import pytest
import torch
import torchvision.models as tv

from vistill.errors import UserError
from vistill.models.adapters.torchvision import _as_plain_vit
from vistill.models.backbone import Tap
from vistill.models.build import load_backbone
from vistill.models.export import read_backbone, save_backbone
from vistill.models.vit import VisionTransformer


@torch.no_grad()
def test_a_vit_computes_what_torchvisions_does() -> None:
    torch.manual_seed(0)
    original = tv.VisionTransformer(64, 16, 2, 3, 48, 96, num_classes=5).eval()
    for parameter in original.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model = _as_plain_vit(original, load_backbone("vit_tiny").normalization, True).eval()
    images = torch.randn(2, 3, 64, 64)
    logits = Tap("logits", model.depth)
    torch.testing.assert_close(model.tap(images, [logits])[logits], original(images))
    found: list[torch.Tensor] = []
    original.encoder.layers[0].register_forward_hook(lambda _, __, out: found.append(out))
    original(images)
    block = Tap("block", 1)
    torch.testing.assert_close(model.tap(images, [block])[block], found[0])


@torch.no_grad()
@pytest.mark.slow
def test_a_vit_by_name(tmp_path) -> None:
    model = load_backbone("torchvision/vit_b_16", image_size=64).eval()
    assert isinstance(model, VisionTransformer)
    assert (model.image_size, model.depth, set(model.num_heads)) == ((64, 64), 12, {12})
    assert {"qkv", "cls_attention", "norm"} <= model.taps
    assert model.origin == "torchvision/vit_b_16, random"
    save_backbone(model, tmp_path)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(read_backbone(tmp_path).eval()(images), model(images))


def test_a_size_of_a_vit_is_refused_before_anything_is_built(monkeypatch) -> None:
    monkeypatch.setattr("vistill.models.adapters.torchvision.get_model", None)
    with pytest.raises(UserError, match=r"no multiple of the patch size 16; 64 or 48 would do$"):
        load_backbone("torchvision/vit_b_16", image_size=60)


@pytest.mark.slow
def test_models_are_shown_what_their_weights_saw() -> None:
    model = load_backbone("torchvision/efficientnet_b1")
    assert model.image_size == (240, 240)
    for name, mean in (("efficientnet_v2_l", 0.5), ("resnet18", 0.485)):
        shown = load_backbone(f"torchvision/{name}", image_size=64).normalization
        assert shown.mean[0] == mean


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 64, 96, 250])
def test_a_swin_takes_other_sizes(size: int) -> None:
    model = load_backbone("torchvision/swin_t", image_size=size).eval()
    assert model.pooled(torch.randn(1, 3, size, size)).shape == (1, 768)
