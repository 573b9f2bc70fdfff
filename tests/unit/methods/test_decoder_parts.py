"""What `student.layer_scale`, `.qkv_bias` and `.qk_scale` choose, decoders and generators have."""

import math

import pytest
import torch
from building import build
from safetensors.torch import save_file

from vistill.errors import UserError
from vistill.models.backbone import Tap
from vistill.models.build import create_backbone, load_backbone
from vistill.models.export import read_backbone, save_backbone
from vistill.models.files.mae import published_mae_encoder
from vistill.models.files.videomae import published_encoder
from vistill.models.layers import Block
from vistill.models.timm_form import timm_form

SIZES = {"image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 2}


def vit(clips: bool = False, **parts):
    frames = {"num_frames": 4} if clips else {}
    return create_backbone("vit", **SIZES, **frames, **parts)


def method(kind: str, **parts):
    clips = kind.endswith("clips")
    if kind == "mae":
        return build("mae", vit(**parts), decoder=SMALL)
    if kind == "tinymim":
        aux = {"weight": 1.0, "decoder": SMALL}
        return build("tinymim", vit(**parts), vit(), input="masked", aux_mim=aux)
    if kind == "videomae clips":
        return build("videomae", vit(clips=True, **parts), decoder=SMALL, mask_ratio=0.5)
    return build(
        "amd",
        vit(clips=clips, **parts),
        vit(clips=clips),
        reconstruction={"decoder": SMALL},
        student_mask_ratio=0.75,
        teacher_mask_ratio=0.5,
    )


@pytest.mark.parametrize("qkv_bias", [None, "all", "no_key", "none"])
@pytest.mark.parametrize("kind", ["mae", "tinymim", "videomae clips", "amd", "amd clips"])
def test_decoders_and_generators_follow(kind, qkv_bias):
    made = method(kind, layer_scale=0.1, qkv_bias=qkv_bias, qk_scale=0.3)
    beside = [m for n, m in made.named_modules() if isinstance(m, Block) and "student" not in n]
    assert len(beside) == (5 if kind.startswith("amd") else 1)
    expected = qkv_bias or ("no_key" if kind.endswith("clips") else "all")
    for block in beside:
        for scale in (block.ls1, block.ls2):
            assert torch.equal(scale.gamma, torch.full_like(scale.gamma, 0.1))
        found = {name for name, _ in block.attn.named_parameters() if "bias" in name}
        own = {"all": {"qkv.bias"}, "no_key": {"q_bias", "v_bias"}, "none": set()}[expected]
        assert found == own | {"proj.bias"}
        assert block.attn.qk_scale == 0.3


@pytest.mark.parametrize("kind", ["mae", "amd clips"])
def test_by_default_they_have_no_scales(kind):
    made = method(kind)
    assert not [name for name, _ in made.named_parameters() if "gamma" in name]
    assert all(m.attn.qk_scale is None for m in made.modules() if isinstance(m, Block))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_scale_is_that_of_queries_times_keys(dtype):
    """Half the scale is the same as queries of half the length, biases included."""
    torch.manual_seed(0)
    usual = 16**-0.5
    plain, scaled = vit().eval(), vit(qk_scale=usual / 2).eval()
    for block in plain.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight)
        torch.nn.init.normal_(block.attn.qkv.bias)
    scaled.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for block in plain.blocks:
            block.attn.qkv.weight[:32] /= 2
            block.attn.qkv.bias[:32] /= 2
    images = torch.randn(2, 3, 32, 32)
    taps = [Tap("cls_attention", 1), Tap("norm", 2)]
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.1}
    with torch.no_grad():
        ours = scaled.to(dtype).tap(images.to(dtype), taps)
        theirs = plain.to(dtype).tap(images.to(dtype), taps)
    for tap in taps:
        torch.testing.assert_close(ours[tap], theirs[tap], **close)


def test_a_scale_survives_a_run_and_is_said_of_a_file(tmp_path):
    model = vit(qk_scale=0.4).eval()
    images = torch.randn(1, 3, 32, 32)
    save_backbone(model, tmp_path / "export")
    save_file(model.state_dict(), tmp_path / "plain.safetensors")
    said = f"file:{tmp_path}/plain.safetensors,num_heads=2,qk_scale=0.4"
    for found in (read_backbone(tmp_path / "export"), load_backbone(said)):
        assert found.qk_scale == 0.4
        assert torch.equal(found.eval()(images), model(images))
    assert timm_form(model) is None
    assert math.isclose(timm_form(vit()).arguments["mlp_ratio"], 4.0)
    with pytest.raises(UserError, match="usual scale"):
        published_mae_encoder(model)
    with pytest.raises(UserError, match=r"qk_scale=0\.4"):
        published_encoder(vit(clips=True, qk_scale=0.4))
    for text in ("0", "nan", "inf", "x"):
        with pytest.raises(UserError, match="qk_scale must be a number above 0"):
            load_backbone(said.replace("0.4", text))
