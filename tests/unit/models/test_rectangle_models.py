"""Models at heights and widths that differ: their grids, their refusals, and how they come back."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm_families import build_smaller
from torch import nn
from transformers_families import family

import vistill
from vistill.errors import UserError
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.adapters.any_transformer import ModuleBackbone
from vistill.models.backbone import Backbone, Tap
from vistill.models.build import create_backbone, load_backbone
from vistill.models.export import read_backbone, save_backbone
from vistill.models.grids import token_grid
from vistill.models.swin import SwinBackbone
from vistill.models.vit import VisionTransformer

VIT: dict[str, Any] = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
SWIN: dict[str, Any] = {"version": 2, "embed_dim": 24, "depths": [1, 1, 1, 1],
                        "num_heads": [1, 1, 2, 2], "window_size": [4, 8]}  # fmt: skip


def grid_of(model: Backbone, block: int | None = None) -> tuple[int, int]:
    kind: Any = "map" if "map" in model.taps else "block"
    return model.shape(Tap(kind, block or model.depth)).grid


@pytest.mark.parametrize(
    ("count", "size", "grid"),
    [
        (8, (32, 64), (2, 4)),
        (2, (64, 32), (2, 1)),
        (98, (224, 112), (14, 7)),
        (96, (128, 192), (8, 12)),
        (36, (96, 96), (6, 6)),
        (64, (64, 256), (4, 16)),
        (144, (128, 224), (9, 16)),  # patches of 14, with two pixels left over
        (12, (64, 64), None),
        (7, (32, 64), None),
    ],
)
def test_a_number_of_patches_is_a_grid_shaped_as_the_picture(
    count: int, size: tuple[int, int], grid: tuple[int, int] | None
) -> None:
    assert token_grid(count, size) == grid


NAMES = {
    "timm/deit3_small_patch16_224": (4, 8),
    "timm/beit_base_patch16_224": (4, 8),
    "timm/swinv2_tiny_window8_256": (2, 4),
    "timm/test_convnext": (2, 4),
    "timm/test_vit": (4, 8),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_models_of_timm_are_built_saved_and_read_at_height_and_width(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_smaller(monkeypatch)
    torch.manual_seed(0)
    model = create_backbone(name, image_size=(64, 128)).eval()
    assert model.image_size == (64, 128)
    assert grid_of(model) == NAMES[name]
    save_backbone(model, tmp_path)
    told = json.loads((tmp_path / "model.json").read_text())
    assert told["image_size"] == [64, 128]
    images = torch.randn(2, 3, 64, 128)
    theirs = timm.create_model(**told["timm"]).eval()
    theirs.load_state_dict(model_state(tmp_path), strict=True)
    again = read_backbone(tmp_path).eval()
    assert again.image_size == (64, 128)
    with torch.no_grad():
        measured = model.pooled(images)
        assert torch.equal(again.pooled(images), measured)
        found = eval(told["feature"], {"model": theirs, "x": images})
    torch.testing.assert_close(found, measured, atol=1e-4 * float(measured.abs().max()), rtol=0)


def model_state(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    "model",
    [
        VisionTransformer(image_size=(32, 64), **VIT),
        VisionTransformer(image_size=(32, 64), position="learned", **VIT),
        VisionTransformer(image_size=(32, 64), position="none", relative_position="shared",
                          qkv_bias="no_key", layer_scale=0.1, **VIT),
        SwinBackbone(image_size=(64, 128), **SWIN),
    ],
    ids=["sincos", "learned", "relative", "swin"],
)  # fmt: skip
def test_own_models_come_back_here_and_in_timm(model: Any, tmp_path: Path) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias_table" in name or "cpb_mlp" in name:  # fresh ones are zero
                parameter += torch.randn_like(parameter)
    model.eval()
    save_backbone(model, tmp_path)
    told = json.loads((tmp_path / "model.json").read_text())
    assert told["timm"]["img_size"] == list(model.image_size)
    theirs = timm.create_model(**told["timm"]).eval()
    theirs.load_state_dict(model_state(tmp_path), strict=True)
    images = torch.randn(2, 3, *model.image_size)
    with torch.no_grad():
        measured = model.pooled(images)
        assert torch.equal(read_backbone(tmp_path).eval().pooled(images), measured)
        torch.testing.assert_close(theirs(images), measured, atol=1e-5, rtol=1e-4)


def test_tables_are_resized_along_their_own_sides() -> None:
    """A table that only depends on the row still does at another height and width."""
    learned = VisionTransformer(image_size=(32, 64), position="learned", **VIT)
    assert learned.pos_embed is not None
    rows = torch.arange(4.0)[:, None, None].expand(4, 8, 24).reshape(1, 32, 24)
    learned.pos_embed.data[:, 1:] = rows
    learned.resize((64, 96))
    table = learned.pos_embed[:, 1:].detach().unflatten(1, (8, 12))
    assert (table - table[:, :, :1]).abs().max() < 1e-5
    assert (table[0, 2:-1, 0, 0] > table[0, 1:-2, 0, 0]).all()

    relative = VisionTransformer(image_size=(32, 64), relative_position="shared", **VIT)
    assert relative.rel_pos_bias is not None
    offsets = torch.arange(-3.0, 4)[:, None].expand(7, 15).reshape(-1, 1).expand(-1, 2)
    relative.rel_pos_bias.relative_position_bias_table.data[:-3] = offsets
    relative.resize((48, 96))
    bias = relative.rel_pos_bias()[0, 1:, 1:].detach().unflatten(0, (6, 12)).unflatten(2, (6, 12))
    assert (bias - bias[:, :1, :, :1]).abs().max() < 1e-4
    assert (bias[1:, 0, 0, 0] > bias[:-1, 0, 0, 0]).all()


@pytest.mark.slow
def test_windows_of_a_fresh_swin_are_shaped_as_the_picture() -> None:
    swin: Any = create_backbone("swinv2_tiny", image_size=(64, 128))
    assert swin.window_size == [4, 8]
    assert [grid_of(swin, block) for block in (1, 3, 5, 12)] == [(16, 32), (8, 16), (4, 8), (2, 4)]
    swin.resize((128, 64))
    assert grid_of(swin) == (4, 2)
    square: Any = create_backbone("swinv2_tiny", image_size=64)
    assert square.window_size == 4


@pytest.mark.parametrize("kind", ["vit", "beit", "siglip2_vision_model", "swin", "resnet"])
def test_models_of_transformers_take_height_and_width(kind: str, tmp_path: Path) -> None:
    family(kind, tmp_path)
    own = load_backbone(f"hf/{tmp_path}")
    side = own.image_size[0]
    model = load_backbone(f"hf/{tmp_path}", image_size=(side, 2 * side))
    rows, columns = grid_of(own)
    assert grid_of(model) == (rows, 2 * columns)
    save_backbone(model.eval(), tmp_path / "saved")
    again = read_backbone(tmp_path / "saved").eval()
    images = torch.randn(1, 3, side, 2 * side)
    with torch.no_grad():
        # Some CPUs round otherwise where tensors lie otherwise in memory.
        torch.testing.assert_close(again.pooled(images), model.pooled(images))
    told = model.state_dict()
    for name, value in again.state_dict().items():
        assert torch.equal(value, told[name]), name


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("vit_tiny", (100, 224), "[100,224] pixels are no multiple of the patch size 16; [96,224] "
         "or [112,224] would do"),
        ("swinv2_tiny", (32, 128), "needs a multiple of 32 pixels, at least 64, not [32,128]; "
         "[64,128] would do"),
        ("timm/nest_tiny", (64, 128), "handles square inputs; image_size=128 would do"),
    ],
)  # fmt: skip
def test_what_takes_no_such_rectangle_names_a_size_that_does(
    name: str, size: tuple[int, int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_smaller(monkeypatch)
    with pytest.raises(UserError) as caught:
        create_backbone(name, image_size=size)
    assert message in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


class Square(nn.Module):
    """Its pictures are 16 or 32 pixels wide and as high."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)
        self.layers = nn.ModuleList([nn.Linear(8, 8)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] != x.shape[3]:
            raise ValueError("squares only")
        return self.conv(x).relu().mean((2, 3))


def test_modules_of_ones_own() -> None:
    pooled = PooledBackbone(Square(), image_size=16)
    with pytest.raises(UserError, match=r"the Square given as an object: .*; image_size=32 would"):
        load_backbone(pooled, image_size=(16, 32))
    hooked = ModuleBackbone(Square(), blocks="layers", width=8, image_size=16)
    with pytest.raises(UserError, match=r"Square given as an object takes pictures of 16 pixels"):
        load_backbone(hooked, image_size=(16, 32))


def test_a_file_for_a_model_of_a_library_is_read_at_its_height_and_width(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    original = timm.create_model("test_vit", img_size=(64, 128), num_classes=0)
    torch.save(original.state_dict(), file)
    model = load_backbone(f"file:{file},model=timm/test_vit,image_size=64x128").eval()
    assert model.image_size == (64, 128)
    images = torch.randn(1, 3, 64, 128)
    with torch.no_grad():
        expected = original.eval().forward_features(images)
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-5)


def test_a_classifier_of_a_library_is_built_at_its_height_and_width() -> None:
    classifier = vistill.load_classifier("timm/test_vit,classifier=keep", image_size=(64, 128))
    assert classifier.backbone.image_size == (64, 128)
    assert classifier(torch.rand(1, 3, 64, 128)).shape == (1, 1000)


def test_a_size_has_two_sides() -> None:
    with pytest.raises(UserError, match=r"one side or \(height, width\), not \(3, 64, 128\)"):
        create_backbone("vit_tiny", image_size=(3, 64, 128))
