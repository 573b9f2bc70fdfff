"""Towers of open_clip as backbones: their taps against the library's own outputs."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from vistill.errors import UserError
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.adapters.any_transformer import ModuleBackbone
from vistill.models.backbone import Backbone, Normalization, Tap
from vistill.models.build import load_backbone, load_teacher
from vistill.models.export import read_backbone, save_backbone
from vistill.models.vit import VisionTransformer

VIT: dict[str, Any] = {
    "image_size": 32,
    "layers": 2,
    "width": 32,
    "head_width": 16,
    "patch_size": 8,
}
TIMM = {"timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear"}
TOWERS: dict[str, dict[str, Any]] = {
    "tiny-vit": VIT,
    "tiny-quick": VIT,
    "tiny-no-pre-norm": VIT | {"no_ln_pre": True, "ls_init_value": 0.1},
    "tiny-query-norm": VIT | {"no_ln_pre": True, "block_type": "custom", "qk_norm": True},
    "tiny-coca": VIT | {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4},
    "tiny-resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
    "tiny-timm-cnn": TIMM | {"image_size": 64, "timm_model_name": "convnext_atto"},
    "tiny-timm-vit": TIMM | {"image_size": 224, "timm_model_name": "vit_tiny_patch16_224"},
}


@pytest.fixture(scope="module", autouse=True)
def towers(tmp_path_factory: pytest.TempPathFactory) -> None:
    """open_clip knows tiny models of every kind."""
    folder = tmp_path_factory.mktemp("configs")
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    for name, sight in TOWERS.items():
        config = {"embed_dim": 16, "vision_cfg": sight, "text_cfg": text}
        config["quick_gelu"] = name == "tiny-quick"
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def saved(name: str, folder: Path) -> tuple[Any, Backbone]:
    """open_clip's model, and ours from its checkpoint."""
    torch.manual_seed(0)
    original = open_clip.create_model(name).eval()
    torch.save({"state_dict": original.state_dict()}, folder / "weights.pt")
    return original.visual, load_backbone(f"open_clip/{name}:{folder / 'weights.pt'}").eval()


@torch.no_grad()
@pytest.mark.parametrize("name", [n for n, sight in TOWERS.items() if "patch_size" in sight])
def test_tokens_and_attention_are_the_librarys(name: str, tmp_path: Path) -> None:
    tower, model = saved(name, tmp_path)
    hooked = name not in ("tiny-vit", "tiny-quick")
    assert isinstance(model, ModuleBackbone if hooked else VisionTransformer)
    assert ("norm" in model.taps) == (name != "tiny-coca")
    pictures = torch.randn(2, 3, 32, 32)
    told = tower.forward_intermediates(pictures, output_fmt="NLC", output_extra_tokens=True)
    for block in (1, 2):
        prefix, patches = (
            told[key][block - 1] for key in ("image_intermediates_prefix", "image_intermediates")
        )
        tap = Tap("block", block)
        expected = torch.cat([prefix, patches], dim=1)
        tolerance = 0 if hooked else 5e-6
        found = model.tap(pictures, [tap])[tap]
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    signals = ("attention", "attention_residual", "ffn", "qkv", "cls_attention", "block")
    taps = {kind: Tap(kind, 2) for kind in signals} | {"before": Tap("block", 1)}
    found = model.tap(pictures, list(taps.values()))
    got = {kind: found[tap] for kind, tap in taps.items()}
    torch.testing.assert_close(got["before"] + got["attention"], got["attention_residual"])
    torch.testing.assert_close(got["attention_residual"] + got["ffn"], got["block"])
    q, k, _ = (part.unflatten(2, (2, 16)).transpose(1, 2) for part in got["qkv"].unbind(2))
    rows = (q @ k.mT / 4).softmax(dim=-1)[:, :, 0]
    torch.testing.assert_close(got["cls_attention"], rows)
    if name == "tiny-no-pre-norm":
        block = tower.transformer.resblocks[1]
        normed = block.ln_1(got["before"])
        told_rows = block.attn(normed, normed, normed, average_attn_weights=False)[1][:, :, 0]
        torch.testing.assert_close(got["cls_attention"], told_rows, rtol=0, atol=1e-6)


@torch.no_grad()
def test_maps_of_resnets_and_timms_towers(tmp_path: Path) -> None:
    tower, model = saved("tiny-resnet", tmp_path)
    assert isinstance(model, PooledBackbone)
    pictures, tap = torch.randn(2, 3, 64, 64), Tap("map_act", 0)
    told = tower.forward_intermediates(pictures)["image_intermediates"][-1]
    assert torch.equal(model.tap(pictures, [tap])[tap], told)
    torch.testing.assert_close(model.pooled(pictures), tower(pictures))
    tower, model = saved("tiny-timm-cnn", tmp_path)
    torch.testing.assert_close(model.pooled(pictures), tower.trunk(pictures), rtol=0, atol=1e-5)
    tower, model = saved("tiny-timm-vit", tmp_path)
    assert isinstance(model, VisionTransformer)
    pictures = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(
        model(pictures), tower.trunk.forward_features(pictures), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("name", ["tiny-quick", "tiny-query-norm", "tiny-resnet"])
def test_a_tower_is_exported_and_read_back(name: str, tmp_path: Path) -> None:
    _, model = saved(name, tmp_path)
    save_backbone(model, tmp_path / "export")
    again = read_backbone(tmp_path / "export").eval()
    assert again.normalization == model.normalization
    pictures = torch.randn(1, 3, *model.image_size)
    assert torch.equal(again.pooled(pictures), model.pooled(pictures))


def test_plain_towers_take_other_sizes(tmp_path: Path) -> None:
    saved("tiny-vit", tmp_path)
    spec = f"open_clip/tiny-vit:{tmp_path / 'weights.pt'}"
    assert load_backbone(spec, image_size=48)(torch.randn(1, 3, 48, 48)).shape == (1, 37, 32)
    assert load_backbone("open_clip/tiny-query-norm", image_size=48).image_size == (48, 48)
    assert load_backbone("open_clip/tiny-timm-vit", image_size=96).image_size == (96, 96)
    saved("tiny-query-norm", tmp_path)
    with pytest.raises(UserError, match="takes pictures of 32 pixels alone, not of 48"):
        load_backbone(f"open_clip/tiny-query-norm:{tmp_path / 'weights.pt'}", image_size=48)


def test_published_statistics_and_activations_are_known() -> None:
    cfg = open_clip.get_pretrained_cfg
    assert cfg("ViT-B-32", "openai")["quick_gelu"]
    assert cfg("ViT-B-16-SigLIP", "webli")["mean"] == (0.5, 0.5, 0.5)
    model = load_backbone("open_clip/tiny-vit")
    assert model.normalization != Normalization()
    assert model.origin == "open_clip/tiny-vit, random"
    assert isinstance(model, VisionTransformer)
    assert model.activation == "gelu"
    quick: Any = load_backbone("open_clip/tiny-quick")
    assert quick.activation == "quick_gelu"


def test_mistakes_get_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("tiny-vit", tmp_path)
    file = tmp_path / "weights.pt"
    wrong = {
        "open_clip/ViT-B-33": "open_clip has no model 'ViT-B-33'; near: ViT-B-32",
        "open_clip/ViT-B-32:opena": "near: openai",
        "open_clip/tiny-vit:pretrained": "none are published",
        f"open_clip/tiny-no-pre-norm:{file}": "does not fit the model: missing",
        f"open_clip/tiny-resnet:{file}": "does not fit the model: missing",
        "open_clip/tiny-vit,classifier=keep": "no model of open_clip has a classifier",
    }
    for spec, message in wrong.items():
        with pytest.raises(UserError) as error:
            load_backbone(spec)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="--teacher-weights random"):
        load_teacher("open_clip/tiny-vit")
    monkeypatch.setattr("vistill.models.adapters.open_clip.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"open_clip/ models need an extra: pip install"):
        load_backbone("open_clip/tiny-vit")
