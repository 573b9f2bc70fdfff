"""Published weight files of teachers: wrappers, prefixes, archives, options, refusals."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.models.backbone import Tap
from vistill.models.build import load_backbone
from vistill.models.swin import SwinBackbone
from vistill.models.vit import VisionTransformer

SMALL = {"image_size": 16, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}
PICTURE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def vit(**changes) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(**(SMALL | changes)).eval()


def save(path: Path, content: object) -> str:
    torch.save(content, path)
    return f"file:{path}"


def test_dino_is_a_flat_state_dict(tmp_path):
    teacher = vit(position="learned")
    loaded = load_backbone(save(tmp_path / "dino.pth", teacher.state_dict())).eval()
    assert loaded.position == "learned"
    assert torch.equal(loaded(PICTURE), teacher(PICTURE))


@pytest.mark.parametrize("distilled", [False, True])
def test_deit_keeps_its_classifier_where_asked(tmp_path, distilled):
    teacher = vit(position="learned", num_classes=5, distillation_token=distilled)
    file = save(tmp_path / "deit.pth", {"model": teacher.state_dict()})
    plain = load_backbone(file).eval()
    assert "logits" not in plain.taps
    assert plain.num_prefix_tokens == 1 + distilled
    assert torch.equal(plain(PICTURE), teacher(PICTURE))
    tokens = teacher(PICTURE)
    expected = teacher.head(tokens[:, 0])
    if distilled:
        expected = (expected + teacher.head_dist(tokens[:, 1])) / 2
    tap = Tap("logits", 2)
    scores = load_backbone(f"{file},classifier=keep").eval().tap(PICTURE, [tap])[tap]
    torch.testing.assert_close(scores, expected)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.randn(192, 64) / 8)
        self.in_proj_bias = nn.Parameter(torch.randn(192))
        self.out_proj = nn.Linear(64, 64)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention()
        self.ln_1, self.ln_2 = nn.LayerNorm(64), nn.LayerNorm(64)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(64, 256), "c_proj": nn.Linear(256, 64)})


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Layer(), Layer()])


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(64))
        self.positional_embedding = nn.Parameter(torch.randn(5, 64))
        self.proj = nn.Parameter(torch.randn(64, 8))
        self.conv1 = nn.Conv2d(3, 64, 8, 8, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(64), nn.LayerNorm(64)
        self.transformer = Stack()


class Clip(nn.Module):
    """The parameters of a CLIP file under OpenAI's names, text included."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.visual = Tower()
        self.token_embedding = nn.Embedding(7, 8)
        self.logit_scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.logit_scale


def test_clip_from_a_state_dict_and_from_a_torchscript_archive(tmp_path):
    model = Clip().half()
    torch.jit.script(model).save(str(tmp_path / "ViT.pt"))
    files = [save(tmp_path / "clip.pth", model.state_dict()), f"file:{tmp_path / 'ViT.pt'}"]
    one, other = (load_backbone(file).eval() for file in files)
    assert (one.pre_norm, one.activation, one.norm_eps) == (True, "quick_gelu", 1e-5)
    assert one.normalization.mean[0] == 0.48145466
    assert one.image_size == (16, 16)
    assert one(PICTURE).dtype == torch.float32
    assert torch.equal(one(PICTURE), other(PICTURE))
    kernel = one.patch_embed.proj.weight
    assert torch.equal(kernel, model.visual.conv1.weight.float())
    assert one.patch_embed.proj.bias is None


def test_an_archive_that_asks_for_more_than_tensors_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    path = tmp_path / "evil.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps(Evil(), protocol=2))
        archive.writestr("evil/constants.pkl", pickle.dumps((), protocol=2))
    with pytest.raises(UserError, match=r"cannot read weights from .*not allowed"):
        load_backbone(f"file:{path}")
    assert not (tmp_path / "made").exists()


def swin(**changes) -> SwinBackbone:
    torch.manual_seed(0)
    sizes = {"embed_dim": 8, "depths": (2, 1), "num_heads": (1, 2), "window_size": 2}
    return SwinBackbone(**({"version": 1, "image_size": 16, "patch_size": 2} | sizes | changes))


def published(model: SwinBackbone) -> dict[str, Tensor]:
    """EsViT's file keeps its masks and a head, and merges patches at the end of a stage."""
    state = {
        k.replace("layers.1.downsample", "layers.0.downsample"): v
        for k, v in model.module.state_dict().items()
    }
    state["layers.0.blocks.1.attn_mask"] = model.module.layers[0].blocks[1].attn_mask
    state["head.mlp.0.weight"] = torch.zeros(3, 3)
    return {f"module.{k}": v for k, v in state.items()}


def test_esvit_is_the_student_of_its_file(tmp_path):
    student, teacher = swin().eval(), swin().eval()
    nn.init.normal_(teacher.module.patch_embed.proj.weight)
    content = {"student": published(student), "teacher": published(teacher), "epoch": 3}
    file = save(tmp_path / "esvit.pth", content)
    loaded = load_backbone(file).eval()
    assert torch.equal(loaded(PICTURE), student(PICTURE))
    other = load_backbone(f"{file},branch=teacher").eval()
    assert torch.equal(other(PICTURE), teacher(PICTURE))
    cut = load_backbone(f"{file},stages=1").eval()
    assert cut(PICTURE).shape == (2, 64, 8)
    assert load_backbone(file, image_size=32).eval()(torch.randn(1, 3, 32, 32)).shape == (1, 64, 16)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("colour=red", "'colour' is none of the options num_heads"),
        ("num_heads=x", "num_heads must be a whole number"),
        ("classifier=drop", "classifier can only be 'keep'"),
        ("classifier=keep", "holds no classifier"),
        ("stages=2", "is no Swin"),
    ],
)
def test_options_that_make_no_sense(tmp_path, option, message):
    file = save(tmp_path / "vit.pth", vit().state_dict())
    with pytest.raises(UserError, match=message):
        load_backbone(f"{file},{option}")


def test_swin_students_need_enough_pixels():
    from vistill.models.build import create_backbone

    with pytest.raises(UserError, match="at least 64, not 32"):
        create_backbone("swinv2_tiny", image_size=32)
    model = create_backbone("swinv2_tiny", image_size=64)
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 4, 768)


def test_swin_survives_saving_and_loads_into_timm(tmp_path):
    import timm
    from safetensors.torch import load_file

    from vistill.models.export import read_backbone, save_backbone
    from vistill.models.timm_form import timm_form

    for version in (1, 2):
        model = swin(version=version).eval()
        model.set_drop_path([0.0, 0.1, 0.2])
        save_backbone(model, tmp_path / str(version))
        again = read_backbone(tmp_path / str(version)).eval()
        assert torch.equal(again(PICTURE), model(PICTURE))
        theirs = timm.create_model(**timm_form(model).arguments).eval()
        theirs.load_state_dict(load_file(tmp_path / str(version) / "model.safetensors"))
        expected = theirs.forward_features(PICTURE).flatten(1, 2)
        torch.testing.assert_close(model(PICTURE), expected)
        assert timm_form(model).feature == "model(x)"
        torch.testing.assert_close(model.pooled(PICTURE), theirs(PICTURE))


def test_a_shared_bias_network_learns_once_and_is_copied_for_fine_tuning(tmp_path):
    from vistill.models.export import read_backbone, save_backbone

    model = swin(version=2, share_bias=True).eval()
    apart = swin(version=2).eval()
    shared = [name for name, _ in model.named_parameters() if "cpb_mlp" in name]
    assert len(shared) == 3 * 2
    assert len([name for name, _ in apart.named_parameters() if "cpb_mlp" in name]) == 3 * 3
    save_backbone(model, tmp_path)
    again = read_backbone(tmp_path).eval()
    assert again.share_bias
    assert torch.equal(again(PICTURE), model(PICTURE))
    again.unshare_relative_position()
    assert torch.equal(again(PICTURE), model(PICTURE))
    assert len([name for name, _ in again.named_parameters() if "cpb_mlp" in name]) == 3 * 3
    assert not again.build["args"]["share_bias"]
