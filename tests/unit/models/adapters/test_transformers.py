"""Models of transformers as backbones: every tap against the library's own outputs."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers_families import SIZES, family, sight

from vistill.errors import UserError
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.backbone import Backbone, Normalization, Tap
from vistill.models.build import create_backbone, load_backbone, load_teacher, rebuild
from vistill.models.export import read_backbone, save_backbone

CNNS = ["resnet", "regnet", "convnext", "convnextv2", "dinov3_convnext"]
SWINS = ["swin", "swinv2"]
PLAIN = [name for name in SIZES if name not in (*CNNS, *SWINS)]
WITH_CLASS_TOKEN = [n for n in PLAIN if not n.startswith(("siglip", "ijepa"))]


def images(model: Backbone, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, *model.image_size, generator=generator)


def theirs(kind: str, model: Any, pictures: torch.Tensor, **asked: bool) -> Any:
    """What the library says, asked in its own way."""
    model = sight(model)
    if kind == "vit_mae":
        model.config.mask_ratio = 0.0
        order = torch.arange(16).expand(len(pictures), -1).float()
        return model(pictures, noise=order, **asked)
    if kind == "siglip2_vision_model":
        cut = pictures.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).flatten(3)
        shapes = torch.tensor([[4, 4]] * len(pictures))
        mask = torch.ones(len(pictures), 16, dtype=torch.long)
        return model(cut.flatten(1, 2), mask, shapes, **asked)
    return model(pictures, **asked)


@torch.no_grad()
@pytest.mark.parametrize("kind", [*PLAIN, *SWINS])
def test_tokens_are_the_librarys(kind: str, tmp_path: Path) -> None:
    original = family(kind, tmp_path)
    model = load_backbone(f"hf/{tmp_path}").eval()
    pictures = images(model)
    told = theirs(kind, original, pictures, output_hidden_states=True)
    norm = Tap("norm", model.depth)
    found = model.tap(pictures, [Tap("block", 1), norm])
    last = told.last_hidden_state
    if kind.startswith("clip"):  # they normalise the class token only
        last = sight(original).post_layernorm(last)
    torch.testing.assert_close(found[norm], last, rtol=0, atol=1e-6)
    torch.testing.assert_close(model(pictures), last, rtol=0, atol=1e-6)
    if kind in PLAIN:
        assert torch.equal(found[Tap("block", 1)], told.hidden_states[1])
        assert found[norm].shape[1] == model.num_prefix_tokens + 16
    else:
        stage = Tap("block", 2)
        before_merging = model.tap(pictures, [stage])[stage]
        assert before_merging.shape == (2, 256, 8)
        merged = original.encoder.layers[0].downsample(before_merging, (16, 16))
        torch.testing.assert_close(merged, told.hidden_states[1])
        pooled = model.pooled(pictures)
        torch.testing.assert_close(pooled, told.pooler_output)


@torch.no_grad()
@pytest.mark.parametrize("kind", PLAIN)
def test_branches_add_up_and_attention_is_rebuilt(kind: str, tmp_path: Path) -> None:
    original = family(kind, tmp_path)
    model = load_backbone(f"hf/{tmp_path}").eval()
    pictures, block = images(model), 2
    kinds = ("attention", "attention_residual", "ffn", "block", "qkv")
    taps = {k: Tap(k, block) for k in kinds} | {"before": Tap("block", block - 1)}
    found = model.tap(pictures, list(taps.values()))
    signals = {name: found[tap] for name, tap in taps.items()}
    torch.testing.assert_close(
        signals["before"] + signals["attention"], signals["attention_residual"]
    )
    torch.testing.assert_close(signals["attention_residual"] + signals["ffn"], signals["block"])
    assert signals["qkv"].shape == (*signals["block"].shape[:2], 3, 32)
    told = told_attention(kind, original, pictures)[block - 1]
    if not model.num_prefix_tokens:
        assert "cls_attention" not in model.taps
        q, k, _ = (t.unflatten(2, (2, 16)).transpose(1, 2) for t in signals["qkv"].unbind(2))
        torch.testing.assert_close((q @ k.mT / 4).softmax(-1), told, rtol=0, atol=1e-6)
        return
    row = Tap("cls_attention", block)
    ours = model.tap(pictures, [row])[row]
    torch.testing.assert_close(ours, told[:, :, 0], rtol=0, atol=1e-6)


def told_attention(kind: str, original: Any, pictures: torch.Tensor) -> Any:
    """Attention maps, which the library only gives without the fused kernel."""
    original.set_attn_implementation("eager")
    return theirs(kind, original, pictures, output_attentions=True).attentions


@torch.no_grad()
@pytest.mark.parametrize("kind", CNNS)
def test_maps_of_cnns_are_the_librarys(kind: str, tmp_path: Path) -> None:
    original = family(kind, tmp_path)
    model = load_backbone(f"hf/{tmp_path}").eval()
    assert isinstance(model, PooledBackbone)
    pictures = images(model)
    told = original(pictures)
    tap = Tap("map_act", 0)
    if kind == "dinov3_convnext":
        last = original(pictures, output_hidden_states=True).hidden_states[-1]
    else:
        last = told.last_hidden_state
    torch.testing.assert_close(model.tap(pictures, [tap])[tap], last, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        model.pooled(pictures), told.pooler_output.flatten(1), rtol=0, atol=1e-6
    )


@torch.no_grad()
def test_the_pass_ends_at_the_deepest_tap_and_fused_attention_stays_on(tmp_path: Path) -> None:
    family("dinov3_vit", tmp_path)
    model: Any = load_backbone(f"hf/{tmp_path}").eval()
    assert model.module.config._attn_implementation == "sdpa"
    reached: list[str] = []
    for name, part in {
        "attention": model.blocks[1].attention.o_proj,
        "third": model.blocks[2],
    }.items():
        part.register_forward_hook(lambda *_, name=name: reached.append(name))
    pictures, tap = images(model), Tap("qkv", 2)
    first = model.tap(pictures, [tap])[tap]
    assert not reached
    assert torch.equal(model.tap(pictures, [tap])[tap], first)


@torch.no_grad()
def test_a_run_that_compiles_reads_the_same(tmp_path: Path) -> None:
    family("vit", tmp_path)
    model = load_backbone(f"hf/{tmp_path}").eval()
    pictures, taps = images(model), [Tap("qkv", 2), Tap("attention", 2)]
    compiled = torch.compile(model.tap, backend="eager")
    expected = model.tap(pictures, taps)
    for tap, signal in compiled(pictures, taps).items():
        assert torch.equal(signal, expected[tap])


@torch.no_grad()
@pytest.mark.parametrize(
    "kind", ["vit", "dinov2", "clip_vision_model", "siglip2_vision_model", "swinv2", "vit_mae"]
)
def test_other_sizes_are_taken(kind: str, tmp_path: Path) -> None:
    family(kind, tmp_path)
    model = load_backbone(f"hf/{tmp_path}", image_size=48).eval()
    assert model.image_size == (48, 48)
    tap = Tap("block", 1)
    tokens = model.tap(images(model), [tap])[tap].shape[1]
    assert tokens == model.num_prefix_tokens + (24 if kind == "swinv2" else 6) ** 2


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("kind", ["vit", "deit", "clip", "resnet", "swin"])
def test_a_kept_classifier_gives_its_scores(kind: str, tmp_path: Path) -> None:
    original: Any = family(kind, tmp_path / "weights", classifier=True, num_labels=5)
    without = load_backbone(f"hf/{tmp_path / 'weights'}").eval()
    assert "logits" not in without.taps
    model = load_backbone(f"hf/{tmp_path / 'weights'},classifier=keep").eval()
    pictures, tap = images(model), Tap("logits", model.depth)
    assert torch.equal(model.tap(pictures, [tap])[tap], original(pictures).logits)
    torch.testing.assert_close(model.pooled(pictures), without.pooled(pictures))
    save_backbone(model, tmp_path / "export")
    again = read_backbone(tmp_path / "export").eval()
    assert torch.equal(again.tap(pictures, [tap])[tap], original(pictures).logits)


def test_weights_come_from_the_folder_unless_there_are_none(tmp_path: Path) -> None:
    original = family("vit", tmp_path / "vit")
    name = f"hf/{tmp_path / 'vit'}"
    for spec in (name, f"{name}:pretrained"):
        model: Any = load_teacher(spec)
        assert model.origin.endswith(f"of {tmp_path / 'vit'}")
        assert torch.equal(model.module.layernorm.bias, original.layernorm.bias)
    fresh: Any = create_backbone(name, image_size=32)
    assert fresh.origin.endswith("random")
    assert not torch.equal(fresh.blocks[0].mlp.fc1.weight, original.layers[0].mlp.fc1.weight)
    (tmp_path / "vit" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="--teacher-weights random"):
        load_teacher(name)
    assert load_teacher(name, weights="random").origin.endswith("random")


def test_a_student_is_exported_and_read_back_without_its_folder(tmp_path: Path) -> None:
    family("dinov2", tmp_path / "folder")
    model = load_backbone(f"hf/{tmp_path / 'folder'}", image_size=48).eval()
    save_backbone(model, tmp_path / "export")
    shutil.rmtree(tmp_path / "folder")
    again = read_backbone(tmp_path / "export").eval()
    assert again.image_size == (48, 48)
    assert again.taps == model.taps
    pictures = images(model)
    assert torch.equal(again(pictures), model(pictures))
    assert rebuild(model.build or {}).origin == "random"


@pytest.mark.parametrize(
    ("kind", "written", "mean", "std"),
    [
        ("vit", None, 0.5, 0.5),
        ("dinov2", None, 0.485, 0.229),
        ("clip_vision_model", None, 0.48145466, 0.26862954),
        ("siglip_vision_model", None, 0.5, 0.5),
        ("vit", {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}, 0.1, 0.4),
        ("vit", {"do_normalize": False}, 0.0, 1.0),
    ],
)
def test_normalisation(
    kind: str, written: dict[str, Any] | None, mean: float, std: float, tmp_path: Path
) -> None:
    family(kind, tmp_path)
    if written is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    normalization = load_backbone(f"hf/{tmp_path}").normalization
    assert isinstance(normalization, Normalization)
    assert (normalization.mean[0], normalization.std[0]) == (mean, std)


def test_masked_autoencoders_see_all_tokens_in_their_order(tmp_path: Path) -> None:
    family("vit_mae", tmp_path, mask_ratio=0.75)
    model = load_backbone(f"hf/{tmp_path}").eval()
    pictures = images(model)
    first, second = model(pictures), model(pictures)
    assert torch.equal(first, second)
    assert first.shape[1] == 17


def spoil(folder: Path, how: str) -> None:
    """Turn a good folder into a bad one."""
    config = json.loads((folder / "config.json").read_text())
    if how == "other sizes":
        config["hidden_size"] = 48
    elif how == "other depth":
        config["num_hidden_layers"] = 5
    elif how == "text":
        config = {"model_type": "bert"}
    elif how == "unknown":
        config["model_type"] = "vitt"
    elif how == "own code":
        config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
        (folder / "mine.py").write_text("raise SystemExit('ran a stranger\\'s code')")
    (folder / "config.json").write_text(json.dumps(config))
    if how == "no config":
        (folder / "config.json").unlink()
    if how == "pickled":
        (folder / "model.safetensors").unlink()
        torch.save({}, folder / "pytorch_model.bin")
    if how == "torn":
        (folder / "model.safetensors").write_bytes(b"nothing of the kind")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("other sizes", "could not be loaded"),
        ("other depth", "holds no weights of a ViTModel: layers.3.*missing"),
        ("text", "is a bert, which takes no pictures"),
        ("unknown", "cannot be had"),
        ("own code", "cannot be had"),
        ("no config", "holds no config.json"),
        ("pickled", "only pickled ones, which are never read"),
        ("torn", "could not be loaded"),
    ],
)
def test_bad_folders_get_one_sentence(how: str, message: str, tmp_path: Path) -> None:
    family("vit", tmp_path / "good")
    spoil(tmp_path / "good", how)
    with pytest.raises(UserError) as error:
        load_backbone(f"hf/{tmp_path / 'good'}")
    assert re.search(message, str(error.value))
    assert "\n" not in str(error.value)


def test_mistaken_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family("dinov2", tmp_path / "dinov2-tiny")
    with pytest.raises(UserError, match=r"there is no folder .*; did you mean .*/dinov2-tiny\?"):
        load_backbone(f"hf/{tmp_path}/dino2-tiny")
    name = f"hf/{tmp_path / 'dinov2-tiny'}"
    family("dinov3_vit", tmp_path / "dinov3")
    with pytest.raises(UserError, match=r"transformers has no classifier for .*, a dinov3_vit"):
        load_backbone(f"hf/{tmp_path / 'dinov3'},classifier=keep")
    with pytest.raises(UserError, match="'head=keep' is not the option classifier=keep"):
        load_backbone(f"{name},head=keep")
    with pytest.raises(UserError, match="holds no weights of a Dinov2ForImageClassification"):
        load_backbone(f"{name},classifier=keep")
    with pytest.raises(UserError, match="20 pixels are no multiple of its patches of 8"):
        load_backbone(name, image_size=20)
    monkeypatch.setattr("vistill.models.adapters.transformers_library.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"hf/ models need an extra: pip install 'vistill\[teach"):
        load_backbone(name)
