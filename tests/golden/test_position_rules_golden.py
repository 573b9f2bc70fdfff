"""Tables of positions at a foreign size: each origin's own rule, followed from weight files on."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from vistill.errors import UserError
from vistill.models.build import load_backbone
from vistill.models.export import read_backbone, save_backbone
from vistill.models.vit import VisionTransformer

PUBLISHED = [
    ("pos_embed_interpolate_up", "tinymim"),
    ("pos_embed_interpolate_down", "tinymim"),
    ("ape_interp", "fd"),
]


@pytest.mark.parametrize(("name", "golden_set"), PUBLISHED)
def test_files_of_the_published_code(golden, name, golden_set, tmp_path: Path):
    case = golden(name, golden_set)
    table, expected = case.inputs["pos_embed"], case.output["pos_embed"]
    side, new = (round((t.shape[1] - 1) ** 0.5) for t in (table, expected))
    model = VisionTransformer(
        image_size=4 * side, patch_size=4, embed_dim=table.shape[2], depth=1, num_heads=1,
        position="learned",
    )  # fmt: skip
    torch.save({"model": model.state_dict() | {"pos_embed": table}}, tmp_path / "a.pth")
    found = load_backbone(f"file:{tmp_path}/a.pth,num_heads=1", image_size=4 * new)
    torch.testing.assert_close(found.pos_embed, expected, atol=case.atol, rtol=case.rtol)
    save_backbone(found, tmp_path / "export")
    again = read_backbone(tmp_path / "export")
    assert again.build["args"]["position_rule"] == "bicubic"


@torch.no_grad()
@pytest.mark.parametrize("size", [48, 160])
def test_files_of_timm(size: int, tmp_path: Path):
    arguments = {"depth": 1, "embed_dim": 24, "num_heads": 2, "num_classes": 0}
    torch.manual_seed(0)
    module = timm.create_model("deit_tiny_patch16_224", img_size=96, **arguments)
    module.pos_embed.normal_(std=0.5)
    state = module.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"arch": "deit", "state_dict": state, "epoch": 3}, tmp_path / "b.pth.tar")
    torch.save(state, tmp_path / "c.pth")
    torch.save({"model": state}, tmp_path / "d.pth")
    theirs = timm.create_model(
        "deit_tiny_patch16_224",
        img_size=size,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "c.pth"), "num_classes": 0},
        **arguments,
    ).eval()
    pixels = torch.randn(2, 3, size, size)
    expected = theirs.forward_features(pixels)
    words = ["a.safetensors", "b.pth.tar", "c.pth", "d.pth,position_rule=bicubic_antialias"]
    for name in words:
        file, _, more = name.partition(",")
        word = f",{more}" if more else ""
        found = load_backbone(f"file:{tmp_path}/{file},num_heads=2{word}", image_size=size).eval()
        torch.testing.assert_close(found(pixels), expected, atol=1e-5, rtol=1e-5)
        assert found.build["args"]["position_rule"] == "bicubic_antialias"
    plain = load_backbone(f"file:{tmp_path}/d.pth,num_heads=2", image_size=size)
    off = (plain.pos_embed - theirs.pos_embed).norm() / theirs.pos_embed.norm()
    assert off > (0.2 if size < 96 else 0.02)  # where a grid grows, by another cubic alone
    with pytest.raises(UserError, match="position_rule must be bicubic or bicubic_antialias"):
        load_backbone(f"file:{tmp_path}/c.pth,position_rule=bilinear")


def test_the_rule_follows_the_origin_whatever_the_container(tmp_path: Path):
    sizes = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    fixed = VisionTransformer(**sizes, position="sincos").state_dict()
    learned = VisionTransformer(**sizes, position="learned").state_dict()
    masked = learned | {"mask_token": torch.zeros(1, 1, 24)}
    for number, (state, rule) in enumerate(
        [(fixed, "bicubic"), (masked, "bicubic"), (learned, "bicubic_antialias")]
    ):
        torch.save({"state_dict": state}, tmp_path / f"{number}.pth")
        save_file(state, tmp_path / f"{number}.safetensors")
        for ending in ("pth", "safetensors"):
            found = load_backbone(f"file:{tmp_path}/{number}.{ending},num_heads=2")
            assert found.build["args"]["position_rule"] == rule
    word = "num_heads=2,position_rule=bicubic_antialias"
    found = load_backbone(f"file:{tmp_path}/0.pth,{word}")
    assert found.build["args"]["position_rule"] == "bicubic_antialias"


@torch.no_grad()
def test_models_of_timm_that_are_resized_later():
    found = load_backbone("timm/vit_tiny_patch16_224", image_size=96)
    table = found.pos_embed.clone()
    found.resize(64)
    expected = timm.layers.resample_abs_pos_embed(table, [4, 4], [6, 6])
    torch.testing.assert_close(found.pos_embed, expected)
