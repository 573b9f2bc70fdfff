"""Published VideoMAE and AMD checkpoints by name, in and out (spec amd 12)."""

import json
from pathlib import Path

import pytest
import torch

from vistill.config.clip_methods import VideoMAEConfig
from vistill.errors import UserError
from vistill.methods.amd import AMD
from vistill.methods.videomae import VideoMAE
from vistill.models.build import create_backbone, load_backbone
from vistill.models.files.checkpoints import backbone_from_state
from vistill.models.files.videomae import published_encoder, published_names
from vistill.models.vit import VisionTransformer

LAYOUT = "layout"
LAYOUTS = json.loads((Path(__file__).parent / "amd" / f"{LAYOUT}.json").read_text())


def clip_vit(name: str) -> VisionTransformer:
    return create_backbone(name, num_frames=16)


def shapes(state) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in state.items()}


def layout(start: str) -> dict:
    return next(v for k, v in LAYOUTS.items() if k.startswith(start))


def without_unused_norms(keys: dict) -> dict:
    return {k: v for k, v in keys.items() if not (k.startswith("generators.") and ".norm." in k)}


def test_names_and_counts_of_amd():
    expected = layout("amd_pretrain_vit_base")
    with torch.device("meta"):
        method = AMD(clip_vit("vit_base"), clip_vit("vit_large"))
    state = published_names(method.state_dict())
    assert shapes(state) == without_unused_norms(expected["keys"])
    unused = set(expected["keys"]) - set(state)
    assert len(unused) == 4
    trained = sum(p.numel() for n, p in state.items())
    assert trained == expected["n_parameters"] - 4 * 1024


def test_names_and_counts_of_videomae():
    found = [(k, v) for k, v in LAYOUTS.items() if k.startswith("videomae_pretrain")]
    assert found
    for name, expected in found:
        size = next(s for s in ("small", "base", "large", "huge") if s in name)
        depth = expected["keys"]
        deep = 1 + max(int(k.split(".")[2]) for k in depth if k.startswith("decoder.blocks."))
        heads = {"embed_dim": depth["mask_token"][2], "depth": deep}
        with torch.device("meta"):
            method = VideoMAE(clip_vit(f"vit_{size}"), VideoMAEConfig(decoder=heads))
        assert shapes(published_names(method.state_dict())) == depth
        assert (
            sum(p.numel() for p in method.parameters() if p.requires_grad)
            == (expected["n_parameters"])
        )


def tiny_videomae() -> VideoMAE:
    torch.manual_seed(0)
    student = VisionTransformer(
        image_size=16, patch_size=8, embed_dim=12, depth=2, num_heads=3,
        tubelet_size=2, num_frames=4, class_token=False, qkv_bias="no_key",
    )  # fmt: skip
    for name, parameter in student.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    decoder = {"embed_dim": 8, "depth": 1, "num_heads": 2}
    return VideoMAE(student, VideoMAEConfig(mask_ratio=0.5, decoder=decoder))


def same_weights(found, expected, but=()):
    values = expected.state_dict()
    for name, value in found.state_dict().items():
        if not name.startswith(("pos_embed", *but)):
            assert torch.equal(value, values[name]), name


def test_a_pretraining_checkpoint_is_a_teacher(golden, tmp_path):
    expected = golden("teacher_loading", "amd").info
    method = tiny_videomae()
    state = published_names(method.state_dict())
    assert sorted(state) == expected["checkpoint_keys"]
    torch.save({"model": state, "epoch": 3}, tmp_path / "checkpoint.pth")
    teacher = load_backbone(
        f"file:{tmp_path}/checkpoint.pth,num_heads=3", image_size=16, num_frames=4
    )
    # The published loader leaves the final norm aside; ours keeps it, and AMD does not read it.
    loaded = {n for n, _ in teacher.named_parameters()} - {"pos_embed"}
    assert loaded == {*expected["loaded_into_teacher"], "norm.weight", "norm.bias"}
    same_weights(teacher, method.student)
    assert torch.equal(teacher.pos_embed, method.student.pos_embed)
    clips = torch.rand(1, 3, 4, 16, 16)
    assert torch.equal(teacher(clips), method.student(clips))


def test_a_fine_tuned_checkpoint(tmp_path):
    """Layout of a classifier: no prefix, no final norm, a norm and a head instead."""
    method = tiny_videomae()
    state = {
        name.removeprefix("encoder."): value
        for name, value in published_encoder(method.student).items()
        if not name.startswith("encoder.norm.")
    }
    kinds = {name.split(".")[0] for name in layout("video_finetune")["keys"]}
    assert kinds == {name.split(".")[0] for name in state} | {"fc_norm", "head"}
    state |= {"fc_norm.weight": torch.ones(12), "fc_norm.bias": torch.zeros(12)}
    state |= {"head.weight": torch.zeros(5, 12), "head.bias": torch.zeros(5)}
    for prefix in ("", "backbone."):
        torch.save({"module": {f"{prefix}{k}": v for k, v in state.items()}}, tmp_path / "ft.pt")
        found = load_backbone(f"file:{tmp_path}/ft.pt,num_heads=3", image_size=16, num_frames=4)
        same_weights(found, method.student, but=("norm.",))
    with pytest.raises(UserError, match="classifier of a model of clips"):
        load_backbone(f"file:{tmp_path}/ft.pt,classifier=keep")


def test_missing_blocks_are_named(tmp_path):
    state = published_encoder(tiny_videomae().student)
    del state["encoder.blocks.0.mlp.fc2.weight"]
    torch.save({"model": state}, tmp_path / "cut.pth")
    with pytest.raises(UserError, match=r"cut.pth does not fit.*missing blocks.0.mlp.fc2.weight"):
        load_backbone(f"file:{tmp_path}/cut.pth,num_heads=3")


@pytest.mark.slow
def test_published_sizes_are_told_by_the_tensors():
    expected = layout("amd_teacher_vit_large")
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in expected["keys"].items()}
    own = clip_vit_on_meta("vit_large").state_dict()
    assert {k for k in own if not k.startswith(("norm.", "pos_embed"))} == {
        k for k in state if not k.startswith(("fc_norm.", "head."))
    }
    small = {k: torch.zeros(1).expand(v) for k, v in layout("video_finetune")["keys"].items()}
    found = backbone_from_state(small, "ft.pt")
    assert (found.width, found.depth, found.num_heads[0], found.num_frames) == (768, 12, 12, 16)
    assert (found.tubelet_size, found.patch_size, found.image_size) == (2, 16, (224, 224))


def clip_vit_on_meta(name):
    with torch.device("meta"):
        return clip_vit(name)


@pytest.mark.parametrize("kind", ["Model", "ForPreTraining", "ForVideoClassification"])
def test_models_of_transformers(tmp_path, kind):
    transformers = pytest.importorskip("transformers")
    config = transformers.VideoMAEConfig(
        image_size=16, patch_size=8, num_frames=4, hidden_size=24, num_hidden_layers=2,
        num_attention_heads=3, intermediate_size=96, decoder_num_attention_heads=2,
        decoder_hidden_size=12, decoder_num_hidden_layers=1, decoder_intermediate_size=48,
        use_mean_pooling=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, f"VideoMAE{kind}")(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "model")
    base = model.base_model if kind != "Model" else model
    clips = torch.randn(2, 3, 4, 16, 16)
    with torch.no_grad():
        expected = base(clips.transpose(1, 2)).last_hidden_state
        found = load_backbone(f"hf/{tmp_path}/model")
        assert isinstance(found, VisionTransformer)
        torch.testing.assert_close(found(clips), expected, atol=1e-5, rtol=1e-5)
    assert found.num_frames == 4
    larger = load_backbone(f"hf/{tmp_path}/model:pretrained", image_size=24, num_frames=8)
    assert (larger.image_size, larger.num_frames, larger.num_patches) == ((24, 24), 8, 36)
