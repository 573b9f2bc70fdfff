"""Swins with absolute positions, further norms, learned key biases or another attention scale: what
they compute, and their files."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from vistill.errors import UserError
from vistill.models.backbone import Tap
from vistill.models.build import create_backbone, load_backbone
from vistill.models.export import read_backbone, save_backbone
from vistill.models.swin import SwinBackbone
from vistill.models.timm_form import timm_form

SIZES = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": (2, 4), "num_heads": (1, 2)}
PARTS = [
    (1, {"ape": True}),
    (2, {"ape": True}),
    (1, {"extra_norm_period": 2}),
    (2, {"extra_norm_period": 2, "ape": True}),
    (2, {"extra_norm_period": 3}),
    (2, {"key_bias": True}),
    (1, {"qk_scale": 0.2}),
]


def swin(version: int, **parts) -> SwinBackbone:
    torch.manual_seed(0)
    model = SwinBackbone(version=version, window_size=4, **SIZES, **parts).eval()
    with torch.no_grad():  # so that every part shows in what comes out
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def microsoft(model: SwinBackbone) -> dict[str, torch.Tensor]:
    """The published names, of which buffers tell windows and sizes."""
    state = {}
    buffers = {k: v for k, v in model.module.named_buffers() if "k_bias" not in k}  # timm's zeros
    for name, value in {**model.module.state_dict(), **buffers}.items():
        name = name.replace("cpb_mlp", "rpe_mlp")
        if name.startswith("layers.1.downsample."):
            name = name.replace("layers.1.", "layers.0.")
        state[name] = value.clone()
    return state


@pytest.mark.parametrize(("version", "parts"), PARTS)
def test_files_in_and_out(tmp_path, version, parts):
    model = swin(version, **parts)
    with torch.no_grad():
        expected = model(images())
        plain = swin(version)
        plain.module.load_state_dict(model.module.state_dict(), strict=False)
        assert not torch.allclose(plain(images()), expected, atol=1e-3), "the part has no effect"
        save_file(microsoft(model), tmp_path / "published.safetensors")
        said = "".join(f",{k}={v}" for k, v in parts.items() if k == "qk_scale")
        found = load_backbone(f"file:{tmp_path}/published.safetensors{said}").eval()
        assert found.build == model.build
        torch.testing.assert_close(found(images()), expected)
        save_backbone(found, tmp_path / "export")
        again = read_backbone(tmp_path / "export").eval()
        torch.testing.assert_close(again(images()), expected)
    assert timm_form(model) is None
    assert timm_form(plain) is not None


def test_absolute_positions_are_added_and_resized():
    model, plain = swin(1, ape=True), swin(1)
    plain.module.load_state_dict(model.module.state_dict(), strict=False)
    table = model.module.absolute_pos_embed
    assert table.shape == (1, 256, 8)
    with torch.no_grad():
        plain.module.patch_embed.register_forward_hook(
            lambda _, __, out: out + table.view(1, 16, 16, 8)
        )
        torch.testing.assert_close(model(images()), plain(images()))
        expected = F.interpolate(table.view(1, 16, 16, 8).permute(0, 3, 1, 2), size=(32, 24),
                                 mode="bicubic", align_corners=False)  # fmt: skip
        model.resize((64, 48))
        resized = model.module.absolute_pos_embed.view(1, 32, 24, 8).permute(0, 3, 1, 2)
        torch.testing.assert_close(resized, expected)
        assert model(torch.randn(1, 3, 64, 48)).shape == (1, 16 * 12, 16)


def test_further_norms_stand_behind_every_third_block_of_a_stage():
    model = swin(2, extra_norm_period=3)
    assert [hasattr(block, "enorm") for block in model.blocks] == [0, 0, 0, 0, 1, 0]
    tap = Tap("block", 5)
    with torch.no_grad():
        found = model.tap(images(), [tap])[tap]
        block = model.blocks[4]
        weight, bias = block.enorm.weight.clone(), block.enorm.bias.clone()
        block.enorm.weight.fill_(1.0), block.enorm.bias.zero_()
        normed = model.tap(images(), [tap])[tap]
    torch.testing.assert_close(normed.mean(-1), torch.zeros(2, 64), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed * weight + bias, found)


def test_a_scale_is_that_of_the_products():
    model, plain = swin(1, qk_scale=0.2), swin(1)
    state = {k: v.clone() for k, v in model.module.state_dict().items()}
    for number, stage in enumerate(plain.module.layers):
        width = 8 * 2**number
        factor = 0.2 / (width // (number + 1)) ** -0.5
        for block in range(len(stage.blocks)):
            for part in ("weight", "bias"):
                state[f"layers.{number}.blocks.{block}.attn.qkv.{part}"][:width] *= factor
    plain.module.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(model(images()), plain(images()))


def test_students_have_them():
    chosen = {"image_size": 64, "ape": True, "extra_norm_period": 2}
    model = create_backbone("swinv2_tiny", **chosen)
    assert model.module.absolute_pos_embed.shape == (1, 256, 96)
    assert sum(hasattr(block, "enorm") for block in model.blocks) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"absolute_pos_embed": torch.zeros(1, 200, 8)}, "has 200 places, which are"),
        (lambda s: {k: v for k, v in s.items() if "blocks.3.enorm" not in k}, "blocks.3.enorm"),
        (lambda s: s | {"layers.0.blocks.0.attn.k_bias": torch.ones(8)}, "k_bias"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, change, message):
    state = change(microsoft(swin(2, ape=True, extra_norm_period=2)))
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message):
        load_backbone(f"file:{tmp_path}/model.safetensors")


def test_parts_that_a_version_does_not_have():
    with pytest.raises(ValueError, match="learns the scale"):
        swin(2, qk_scale=0.2)
    with pytest.raises(ValueError, match="in any case"):
        swin(1, key_bias=True)
