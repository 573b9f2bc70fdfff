"""What a model has to show before it is used: tokens in place, true taps, own features."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.models.adapters.admission import admit, token_grid
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.adapters.any_transformer import ModuleBackbone
from vistill.models.backbone import OVER_OWN, Tap
from vistill.models.build import create_backbone, load_backbone
from vistill.models.taps import Own

VIT = {"img_size": 48, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}


class Disordered(nn.Module):
    """A ViT whose tokens stand in an order of their own."""

    def __init__(self, order: Tensor, **more: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        made = timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT, **more)
        self.embed, self.blocks, self.norm, self.order = made, made.blocks, made.norm, order

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed._pos_embed(self.embed.patch_embed(images))[:, self.order]
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


def admitted(order: Tensor, prefix: int = 1, **parts: Any) -> ModuleBackbone:
    module = Disordered(order)
    model = ModuleBackbone(
        module, blocks="blocks", width=1, image_size=48, num_prefix_tokens=prefix, num_heads=7,
        norm="norm", **{"attention": "attn", "attention_residual": "norm2", "mlp": "mlp"} | parts,
    )  # fmt: skip
    admit(model, lambda images: Own(module(images), None))
    return model


IN_ORDER = torch.arange(37)
PATCHES = torch.arange(36).view(6, 6)


@pytest.mark.parametrize("declared", [0, 1, 5])
def test_prefix_width_and_heads_are_counted(declared: int) -> None:
    model = admitted(IN_ORDER, declared, qkv="attn")
    assert (model.num_prefix_tokens, model.width, model.num_heads) == (1, 48, (3, 3, 3))
    assert {"block", "attention", "attention_residual", "ffn", "qkv", "norm"} <= model.taps


@pytest.mark.parametrize(
    "patches",
    [PATCHES.T, PATCHES.flip(0), PATCHES.flip(1), PATCHES.flip(0, 1), PATCHES.roll(2, 1),
     torch.randperm(36, generator=torch.Generator().manual_seed(0)),
     PATCHES.view(3, 2, 3, 2).transpose(1, 2)],
)  # fmt: skip
@pytest.mark.parametrize("classed", [True, False])
def test_patches_in_another_order_are_refused(patches: Tensor, classed: bool) -> None:
    order = patches.flatten() + 1
    order = torch.cat([torch.zeros(1, dtype=torch.long), order]) if classed else order
    with pytest.raises(UserError, match="no grid of patches in the order of the picture"):
        admitted(order)


def test_a_class_token_behind_the_patches_is_no_prefix() -> None:
    with pytest.raises(UserError, match="the 37 tokens of its blocks are no grid"):
        admitted(torch.cat([IN_ORDER[1:], IN_ORDER[:1]]))


def test_taps_that_are_not_what_they_are_called_are_not_offered() -> None:
    model = admitted(IN_ORDER, attention="norm1", mlp="attn")
    assert not model.taps & {"attention", "ffn", "attention_residual"}
    module = Disordered(IN_ORDER)
    other = nn.LayerNorm(48)
    module.add_module("other", other)
    model = ModuleBackbone(module, blocks="blocks", width=48, image_size=48, norm="other")
    admit(model, lambda images: Own(module(images), None))
    assert "norm" not in model.taps


def test_sizes_of_grids() -> None:
    assert token_grid(196, (224, 224)) == (14, 14)
    assert token_grid(195, (224, 224)) is None
    assert token_grid(98, (112, 224)) == (7, 14)
    assert token_grid(98, (224, 112)) == (14, 7)


class Turned(nn.Module):
    """A CNN that turns its map on its side in front of its mean."""

    def __init__(self, turned: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.turned, self.conv = turned, nn.Conv2d(3, 8, 8, stride=8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        found = self.conv2(self.conv(images))
        return (found.transpose(2, 3) * 1.0 if self.turned else found).mean(dim=(2, 3))


def test_a_map_on_its_side_is_refused() -> None:
    for turned in (False, True):
        module = Turned(turned)
        model = PooledBackbone(module, image_size=48)
        if not turned:
            admit(model, lambda images, module=module: Own(None, module(images)))
            assert model.reads == ""
            continue
        with pytest.raises(UserError, match="its last map is not in the order of the picture"):
            admit(model, lambda images, module=module: Own(None, module(images)))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", ["xcit_nano_12_p8_224", "cait_xxs24_224"])
def test_class_tokens_that_join_late_are_no_patches(name: str) -> None:
    model = create_backbone(f"timm/{name}", image_size=64).eval()
    side = 64 // (8 if "p8" in name else 16)
    assert model.num_prefix_tokens == 0
    assert not model.has_class_token
    assert "norm" not in model.taps
    tap = Tap("block", 2)
    assert model.tap(torch.randn(1, 3, 64, 64), [tap])[tap].shape[1] == side**2
    assert model.reads == OVER_OWN


@pytest.mark.slow
@torch.no_grad()
def test_registers_alone_are_no_class_token() -> None:
    model = create_backbone("timm/vit_medium_patch16_reg4_gap_256", image_size=64)
    assert model.num_prefix_tokens == 4
    assert not model.has_class_token
    assert "cls_attention" not in model.taps


@torch.no_grad()
def test_the_mean_is_normed_as_the_model_does() -> None:
    model: Any = create_backbone("timm/eva02_tiny_patch14_224", image_size=70).eval()
    images = torch.randn(2, 3, 70, 70)
    tokens = model.module.forward_features(images)
    theirs = model.module.forward_head(tokens, pre_logits=True)
    torch.testing.assert_close(model.pooled(images), theirs, rtol=1e-4, atol=1e-5)
    assert model.reads == ""


@pytest.mark.slow
def test_whatever_a_library_raises_is_one_sentence(tmp_path: Path) -> None:
    for config in (
        {"model_type": "cvt", "embed_dim": [8]},
        {"model_type": "vivit", "hidden_size": 32, "num_attention_heads": 2},
        {"model_type": "timesformer", "hidden_size": 32, "num_attention_heads": 2},
        {"model_type": "efficientnet", "image_size": 64, "hidden_dim": 32},
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=str(config["model_type"])) as error:
            load_backbone(f"hf/{tmp_path}")
        assert "\n" not in str(error.value)
    for name, size in (("hiera_tiny_224", 96), ("hiera_tiny_224", None), ("pit_ti_224", 50)):
        with pytest.raises(UserError, match=f"timm/{name} cannot be"):
            load_backbone(f"timm/{name}", image_size=size)
