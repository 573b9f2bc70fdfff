"""Biases of queries, keys and values of files: what can carry them does, and nothing loses them."""

import pytest
import torch
from safetensors.torch import save_file

from vistill.config.loading import build_config
from vistill.config.schema import RunConfig
from vistill.errors import UserError
from vistill.models.backbone import Tap
from vistill.models.build import load_backbone
from vistill.models.export import read_backbone, save_backbone
from vistill.models.files.biases import fit_biases
from vistill.models.swin import SwinBackbone
from vistill.models.vit import VisionTransformer
from vistill.runs.build import build

SIZES = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def vit(**parts) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(**SIZES, **parts).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "bias_table")):
                parameter.normal_()
    return model


@pytest.mark.parametrize("relative", [None, "shared", "layer"])
def test_learned_key_biases_under_the_names_of_beit(tmp_path, relative):
    model = vit(relative_position=relative)
    state = {}
    for name, value in model.state_dict().items():
        if name.endswith("attn.qkv.bias"):
            for part, bias in zip("qkv", value.split(24), strict=True):
                state[name.replace("qkv.bias", f"{part}_bias")] = bias.clone()
        else:
            state[name.replace("attn.rel_pos_bias.", "attn.")] = value
    save_file(state, tmp_path / "model.safetensors")
    found = load_backbone(f"file:{tmp_path}/model.safetensors,num_heads=2").eval()
    assert found.qkv_bias == "all"
    save_backbone(found, tmp_path / "export")
    for read in (found, read_backbone(tmp_path / "export").eval()):
        taps = [Tap("qkv", 2), Tap("norm", 2)]
        with torch.no_grad():
            for ours, theirs in zip(read.tap(IMAGES, taps).values(),
                                    model.tap(IMAGES, taps).values(), strict=True):  # fmt: skip
                torch.testing.assert_close(ours, theirs)


def student(tmp_path, model, qkv_bias) -> VisionTransformer:
    model.untrained = False
    save_backbone(model, tmp_path / "start")
    words = {
        "method": "mae",
        "data.image_size": 32,
        "student": "vit",
        **{f"student.{key}": value for key, value in SIZES.items() if key != "image_size"},
        "student.qkv_bias": qkv_bias,
        "student.init": f"run:{tmp_path / 'start'}",
    }
    return build(build_config(RunConfig, {}, list(words.items()))).student.eval()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("no_key", "all"), ("none", "all"), ("none", "no_key"), ("all", "all"), ("no_key", "no_key")],
)
def test_a_student_starts_from_another_form(tmp_path, theirs, ours):
    model = vit(qkv_bias=theirs)
    found = student(tmp_path, model, ours)
    assert found.qkv_bias == ours
    with torch.no_grad():
        torch.testing.assert_close(found(IMAGES), model(IMAGES))


def test_what_a_student_has_no_place_for_must_be_zero(tmp_path):
    model = vit(qkv_bias="all")
    with pytest.raises(UserError, match=r"biases of the keys \(blocks.0.attn.k_bias\)"):
        student(tmp_path, model, "no_key")
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.bias[24:48] = 0
        found = student(tmp_path, model, "no_key")
        torch.testing.assert_close(found(IMAGES), model(IMAGES))
    with pytest.raises(UserError, match="biases of the queries"):
        student(tmp_path, model, "none")


def test_a_swin_without_key_biases_takes_none():
    sizes = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": (2,), "num_heads": (1,)}
    plain = SwinBackbone(version=2, window_size=4, **sizes).state_dict()
    state = SwinBackbone(version=2, window_size=4, key_bias=True, **sizes).state_dict()
    assert fit_biases(state, plain, "x").keys() == plain.keys()
    state["module.layers.0.blocks.1.attn.k_bias"].fill_(1.0)
    with pytest.raises(UserError, match=r"the keys \(module.*attn.k_bias\), for .* place$"):
        fit_biases(state, plain, "x")
