"""Models by name, from files and from objects."""

import argparse
import logging
import sys

import pytest
import torch

import vistill
from vistill.errors import UserError
from vistill.models.adapters.any_transformer import ModuleBackbone
from vistill.models.backbone import Normalization, Tap
from vistill.models.build import create_backbone, load_backbone, load_teacher
from vistill.models.export import read_backbone, save_backbone
from vistill.models.vit import VisionTransformer

SIZES = {"image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


@pytest.fixture
def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(**SIZES).eval()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state, "args": argparse.Namespace(lr=1.0), "epoch": 3},
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {"module": {f"encoder.{k}": v for k, v in state.items()}},
        lambda state: state,
        lambda state: {
            "model": state
            | {"mask_token": torch.zeros(1, 1, 8), "decoder_pred.bias": torch.ones(2)}
        },
    ],
)
def test_published_layouts_are_recognised(tmp_path, vit, wrap):
    path = tmp_path / "weights.pth"
    torch.save(wrap(vit.state_dict()), path)
    loaded = load_backbone(f"file:{path},num_heads=2").eval()
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded(images), vit(images))


def test_missing_and_unexpected_names_are_told(tmp_path, vit):
    state = vit.state_dict()
    state["blocks.0.attn.extra"] = state.pop("blocks.1.mlp.fc2.bias")
    path = tmp_path / "broken.pth"
    torch.save(state, path)
    with pytest.raises(UserError) as error:
        load_backbone(f"file:{path},num_heads=2")
    assert "missing blocks.1.mlp.fc2.bias" in str(error.value)
    assert "unexpected blocks.0.attn.extra" in str(error.value)


def test_fine_tuned_files_without_final_norm_load(tmp_path, vit):
    state = {k: v for k, v in vit.state_dict().items() if not k.startswith("norm.")}
    state |= {"fc_norm.weight": torch.ones(24), "head.weight": torch.ones(5, 24)}
    path = tmp_path / "finetuned.pth"
    torch.save({"model": state}, path)
    tap = Tap("block", 2)
    images = torch.randn(1, 3, 32, 32)
    loaded = load_backbone(f"file:{path},num_heads=2").eval()
    assert torch.equal(loaded.tap(images, [tap])[tap], vit.tap(images, [tap])[tap])


class Hostile:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_hostile_pickles_are_refused(tmp_path, capsys):
    path = tmp_path / "hostile.pth"
    torch.save({"model": Hostile()}, path)
    with pytest.raises(UserError, match=r"would run builtins\.print"):
        load_backbone(f"file:{path}")
    assert "unpickled" not in capsys.readouterr().out


def test_save_and_read_back(tmp_path, vit):
    vit.normalization = Normalization((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    save_backbone(vit, tmp_path / "export", step=7)
    loaded = read_backbone(tmp_path / "export").eval()
    assert loaded.normalization == vit.normalization
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded(images), vit(images))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])
def test_timm_models_tap_like_timm(name):
    backbone = load_backbone(f"timm/{name}", image_size=112).eval()
    import timm

    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=0, img_size=112).eval()
    inner = backbone.module if isinstance(backbone, ModuleBackbone) else backbone
    inner.load_state_dict(module.state_dict())
    images = torch.randn(1, 3, 112, 112)
    tap = Tap("block", 2)
    with torch.no_grad():
        expected = module.forward_intermediates(
            images, indices=[1], output_fmt="NLC", intermediates_only=True,
            return_prefix_tokens=True,
        )[0]  # fmt: skip
        patches, prefix = expected
        torch.testing.assert_close(
            backbone.tap(images, [tap])[tap], torch.cat([prefix, patches], 1), atol=1e-5, rtol=1e-5
        )


def test_queries_and_keys_are_read_behind_rotary_positions():
    backbone = load_backbone("timm/eva02_tiny_patch14_224", image_size=112).eval()
    attention, seen = backbone.module.blocks[0].attn, []
    attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tap = Tap("qkv", 1)
    with torch.no_grad():
        q, k, v = backbone.tap(torch.randn(1, 3, 112, 112), [tap])[tap].unbind(2)
        bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        projected = torch.nn.functional.linear(seen[0], attention.qkv.weight, bias)
    flat_q, flat_k, flat_v = projected.chunk(3, dim=2)
    torch.testing.assert_close(v, flat_v)
    for rotated, flat in ((q, flat_q), (k, flat_k)):
        torch.testing.assert_close(rotated[:, 0], flat[:, 0])  # the class token has no place
        assert not torch.allclose(rotated[:, 1:], flat[:, 1:])
        lengths = [t.unflatten(2, (3, -1)).norm(dim=-1) for t in (rotated, flat)]
        torch.testing.assert_close(*lengths)


def test_any_module_with_blocks_can_be_wrapped_and_exits_early():
    torch.manual_seed(0)
    layers = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(3))

    class Tiny(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            x = x.flatten(2).transpose(1, 2) @ torch.ones(3, 6)
            for layer in self.layers:
                x = layer(x)
            return x

    backbone = ModuleBackbone(Tiny(), blocks="layers", width=6, image_size=4)
    calls = []
    layers[2].register_forward_hook(lambda *_: calls.append(1))
    images = torch.randn(2, 3, 4, 4)
    tap = Tap("block", 2)
    first = backbone.tap(images, [tap])[tap]
    assert first.shape == (2, 16, 6)
    assert not calls


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("vit_smol", "vit_small"),
        ("timm/vit_smal_patch16_224", "vit_small_patch16_224"),
        ("timm/crossvit_tiny_240", "cannot be read"),
        ("timm/vit_tiny_patch16_224:best", "':pretrained'"),
        ("run:/no/such/run", "no run /no/such/run"),
        ("file:/no/such/file.pth", "no weight file /no/such/file.pth"),
    ],
)
def test_bad_names_get_one_sentence(spec, part):
    with pytest.raises(UserError) as error:
        load_backbone(spec)
    assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_random_teachers_must_be_asked_for():
    with pytest.raises(UserError, match="--teacher-weights random"):
        load_teacher("vit_tiny", image_size=32)
    assert load_teacher("vit_tiny", weights="random", image_size=32).origin == "random"


@pytest.mark.parametrize("kind", ["run", "file", "pretraining"])
def test_a_name_that_ends_in_random_says_nothing_about_weights(tmp_path, vit, kind):
    folder = tmp_path / "baseline-random"
    vit.untrained = False
    save_backbone(vit, folder)
    spec = f"run:{folder}"
    if kind == "file":
        spec = f"file:{folder}/model.safetensors"
    elif kind == "pretraining":
        torch.save({"model": vit.state_dict()}, folder / "weights-random")
        spec = f"file:{folder}/weights-random,num_heads={vit.num_heads[0]}"
    found = load_teacher(spec)
    assert not found.untrained
    vistill.export(spec, out=tmp_path / "again")
    assert not read_backbone(tmp_path / "again").untrained


def test_random_weights_stay_random_in_a_file(tmp_path, vit):
    save_backbone(vit, tmp_path / "trained")
    for spec in (f"run:{tmp_path}/trained", f"file:{tmp_path}/trained/model.safetensors"):
        with pytest.raises(UserError, match="would have random weights"):
            load_teacher(spec)
        assert load_teacher(spec, weights="random").untrained


def test_sizes_that_do_not_fit_are_told():
    with pytest.raises(UserError, match=r"student\.embed_dim"):
        create_backbone("vit", depth=2, num_heads=2)
    with pytest.raises(UserError, match="7 heads"):
        create_backbone("vit_tiny", image_size=32, num_heads=7)
    with pytest.raises(UserError, match="multiple of the patch size"):
        create_backbone("vit_tiny", image_size=30)


def test_a_tap_that_gives_no_tokens_is_named():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3))
    model = ModuleBackbone(torch.nn.ModuleDict({"blocks": module}), blocks="blocks", width=8)
    model.module.forward = module.forward
    with pytest.raises(UserError, match=r"shape \(1, 8, 6, 6\), not tokens"):
        model.tap(torch.rand(1, 3, 8, 8), [Tap("block", 1)])


def test_a_failure_without_words_is_named_by_its_kind(monkeypatch):
    def refuse(*args, **named):
        raise AssertionError

    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(UserError, match="cannot be built: AssertionError"):
        load_backbone("timm/vit_tiny_patch16_224")


def test_without_a_network_one_sentence_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(*words: object, **named: object) -> None:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise OSError("cannot reach the hub")

    monkeypatch.setattr("timm.create_model", offline)
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("huggingface_hub")
    logger.addHandler(handler)
    try:
        with pytest.raises(UserError, match="could not be loaded: cannot reach the hub"):
            load_backbone("timm/vit_tiny_patch16_224:pretrained")
    finally:
        logger.removeHandler(handler)
    assert "Retrying" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet10t", "test_vit", "test_convnext"])
def test_a_local_file_of_a_model_of_timm(tmp_path, name):
    import timm

    torch.manual_seed(3)
    module = timm.create_model(name, num_classes=5)
    torch.save({"state_dict": module.state_dict()}, tmp_path / "best.pth.tar")
    loaded = load_backbone(f"timm/{name}:{tmp_path / 'best.pth.tar'}").eval()
    assert not loaded.untrained
    images = torch.randn(1, 3, *loaded.image_size)
    with torch.no_grad():
        features = module.eval().forward_features(images)
        expected = features if features.dim() == 3 else features.flatten(2).mT
        torch.testing.assert_close(loaded(images), expected)
    with pytest.raises(UserError, match=r"best\.pth\.tar"):
        load_backbone(f"timm/vit_tiny_patch16_224:{tmp_path / 'best.pth.tar'}")
    with pytest.raises(UserError, match=r"no weight file .*none\.pth"):
        load_backbone(f"timm/{name}:{tmp_path / 'none.pth'}")
