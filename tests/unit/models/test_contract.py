"""What every model owes to the methods: one contract, checked of every adapter."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import timm
import torch
import torchvision
import transformers_families
from int8_here import needs_int8
from torch import nn
from torchvision.models import vision_transformer

from vistill.models import int8
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.adapters.any_transformer import ModuleBackbone
from vistill.models.backbone import Backbone, Tap
from vistill.models.build import load_backbone
from vistill.models.precision import keep_weights, run_in
from vistill.models.swin import SwinBackbone
from vistill.models.vit import VisionTransformer

PLAIN = {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}


def of_transformers(kind: str, folder: Path) -> Backbone:
    transformers_families.family(kind, folder)
    return load_backbone(f"hf/{folder}")


def of_open_clip(folder: Path) -> Backbone:
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    tower = {"image_size": 32, "layers": 3, "width": 24, "head_width": 8, "patch_size": 8}
    config = {"embed_dim": 16, "vision_cfg": tower, "text_cfg": text}
    (folder / "contract-vit.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return load_backbone("open_clip/contract-vit")


def wrapped(_: Path) -> Backbone:
    module = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0, **PLAIN)
    return ModuleBackbone(
        module, blocks="blocks", width=24, image_size=32, num_prefix_tokens=1, norm="norm"
    )


def resized(name: str, size: tuple[int, int]) -> Backbone:
    return load_backbone(name, image_size=size)


def small_vit_of_torchvision(size: tuple[int, int]) -> Backbone:
    """torchvision's builder, of fewer and narrower blocks than any of its names."""
    build = vision_transformer.VisionTransformer
    small = {"num_layers": 2, "hidden_dim": 48, "mlp_dim": 96, "num_heads": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vision_transformer, "VisionTransformer", lambda **k: build(**k | small))
        return resized("torchvision/vit_b_32", size)


MODELS: dict[str, Callable[[Path], Backbone]] = {
    "vit": lambda _: VisionTransformer(image_size=(32, 48), **PLAIN),
    "clips": lambda _: VisionTransformer(image_size=32, num_frames=4, tubelet_size=2, **PLAIN),
    "swin": lambda _: SwinBackbone(
        version=1, image_size=32, patch_size=2, embed_dim=8, depths=(2, 2), num_heads=(1, 2),
        window_size=4,
    ),
    "swinv2": lambda _: SwinBackbone(
        version=2, image_size=(32, 64), patch_size=2, embed_dim=8, depths=(1, 2), num_heads=(1, 2),
        window_size=4,
    ),
    "timm ViT": lambda _: resized("timm/test_vit", (48, 64)),
    "timm, by hooks": lambda _: resized("timm/test_vit2", (64, 64)),
    "timm Swin": lambda _: resized("timm/swinv2_cr_tiny_ns_224", (64, 64)),
    "timm CNN": lambda _: resized("timm/test_convnext", (64, 96)),
    "torchvision CNN": lambda _: resized("torchvision/resnet18", (64, 96)),
    "torchvision ViT": lambda _: small_vit_of_torchvision((64, 96)),
    "module with blocks": wrapped,
    "transformers ViT": lambda folder: of_transformers("vit", folder),
    "transformers DINOv2": lambda folder: of_transformers("dinov2_with_registers", folder),
    "transformers Swin": lambda folder: of_transformers("swin", folder),
    "open_clip": of_open_clip,
    "module with maps": lambda _: PooledBackbone(
        torchvision.models.squeezenet1_1(weights=None).features, image_size=(64, 96)
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    torch.manual_seed(0)
    built = MODELS[request.param](tmp_path_factory.mktemp("model")).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.dim() < 2:
                parameter += 0.1 * torch.randn_like(parameter)
    return built


def pictures(model: Backbone, count: int = 2) -> torch.Tensor:
    clip = (model.num_frames,) if model.num_frames > 1 else ()
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, *clip, *model.image_size, generator=generator)


def taps(model: Backbone) -> list[Tap]:
    """Every kind, of the first and the last block."""
    return [
        Tap(kind, block) for kind in sorted(model.taps) for block in {1, model.depth} - {0}
    ] or [Tap(kind, 0) for kind in sorted(model.taps)]


@torch.no_grad()
def test_every_tap_has_the_shape_that_is_told(model: Backbone) -> None:
    for tap in taps(model):
        found, told = model.tap(pictures(model), [tap])[tap], model.shape(tap)
        times = 2 if model.num_frames > 1 else 1
        assert times * told.grid[0] * told.grid[1] == told.patches
        if tap.kind == "cls_attention":
            assert found.shape[0] == 2
            torch.testing.assert_close(found.sum(-1), torch.ones_like(found[..., 0]))
        elif found.dim() == 2:
            assert (told.prefix, told.patches, tuple(found.shape)) == (0, 1, (2, told.width))
        elif tap.kind.startswith("map"):
            assert tuple(found.shape) == (2, told.width, *told.grid)
        else:
            parts = (3,) if tap.kind == "qkv" else ()
            assert tuple(found.shape) == (2, told.prefix + told.patches, *parts, told.width)
            assert told.prefix == model.num_prefix_tokens


@torch.no_grad()
def test_the_final_norm_is_had_of_any_block(model: Backbone) -> None:
    if not model.depth or "norm" not in model.taps:
        return
    last, normed = Tap("block", model.depth), Tap("norm", model.depth)
    found = model.tap(pictures(model), [last, normed])
    torch.testing.assert_close(model.final_norm(found[last]), found[normed])
    first = model.tap(pictures(model), [Tap("block", 1)])[Tap("block", 1)]
    if first.shape[-1] == found[last].shape[-1]:
        assert model.final_norm(first).shape == first.shape


@torch.no_grad()
def test_attention_of_all_queries_and_heads_gives_the_class_token_s(model: Backbone) -> None:
    if not {"qkv", "cls_attention"} <= model.taps:
        return
    qkv, told = Tap("qkv", model.depth), Tap("cls_attention", model.depth)
    found = model.tap(pictures(model), [qkv, told])
    heads = model.num_heads[-1]
    queries, keys, _ = found[qkv].unflatten(-1, (heads, -1)).unbind(2)
    logits = torch.einsum("bqhd,bkhd->bhqk", queries, keys) * queries.shape[-1] ** -0.5
    torch.testing.assert_close(logits.softmax(-1)[:, :, 0], found[told], atol=1e-5, rtol=1e-4)


def test_every_parameter_has_a_layer(model: Backbone) -> None:
    layers = model.parameter_layers()
    assert layers.keys() == dict(model.named_parameters()).keys()
    assert set(layers.values()) <= set(range(model.depth + 2))
    for number in range(1, model.depth + 1):
        assert number in layers.values()


def test_looking_changes_nothing(model: Backbone) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    for tap in taps(model):
        model.shape(tap)
    assert model.training
    model.eval()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert isinstance(model, nn.Module)


@pytest.mark.slow
@torch.no_grad()
def test_weights_in_a_cheap_type_give_bit_for_bit_what_autocast_gives(model: Backbone) -> None:
    images, wanted, dtype = pictures(model), taps(model), torch.bfloat16
    with torch.autocast("cpu", dtype):
        before = [model.tap(images, [tap])[tap] for tap in wanted]
        mean = model.pooled(images)
    cheap = copy.deepcopy(model)
    undo = run_in(cheap, "bf16")
    keep_weights(cheap)
    assert dtype in {p.dtype for p in cheap.parameters()}
    assert cheap.input_type == torch.float32
    for tap, told in zip(wanted, before, strict=True):
        alone = cheap.tap(images, [tap])[tap]
        assert alone.dtype == torch.float32
        assert torch.equal(alone, told.float())
        assert cheap.shape(tap) == model.shape(tap)
    with torch.autocast("cpu", dtype):
        within = [cheap.tap(images, [tap])[tap] for tap in wanted]
        assert torch.equal(cheap.pooled(images), mean)
    for found, told in zip(within, before, strict=True):
        assert found.dtype == told.dtype
        assert torch.equal(found, told)
    undo()
    assert cheap.precision is None
    assert "tap" not in vars(cheap)


@torch.no_grad()
def test_a_precise_teacher_stays_precise_in_a_rough_run(model: Backbone) -> None:
    images, tap = pictures(model), taps(model)[-1]
    told = model.tap(images, [tap])[tap]
    undo = run_in(model, "fp32")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.tap(images, [tap])[tap], told)
    undo()


@needs_int8
@torch.no_grad()
def test_int8_is_near_the_model_and_leaves_it_as_it_was(
    model: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "_LEAST", 2)
    images = pictures(model, 3)
    wanted = [tap for tap in taps(model) if not tap.kind.startswith("cls")]
    told = [model.tap(images, [tap])[tap] for tap in wanted]
    changed = int8.layers(model)
    undo = run_in(model, "int8")
    near = [model.tap(images, [tap])[tap] for tap in wanted]
    undo()
    for tap, a, b in zip(wanted, near, told, strict=True):
        assert (a - b).norm() < 0.12 * b.norm(), tap
    if changed and model.depth:
        assert not all(torch.equal(a, b) for a, b in zip(near, told, strict=True))
    assert all(
        torch.equal(model.tap(images, [tap])[tap], b) for tap, b in zip(wanted, told, strict=True)
    )
