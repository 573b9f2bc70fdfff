"""Checkpoints of the published sizes: every name and shape finds its place, none is left over."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_swin_golden import published

from vistill.models.backbone import Backbone
from vistill.models.build import load_backbone
from vistill.models.files.beit import beit_names
from vistill.models.files.checkpoints import backbone_from_state
from vistill.models.files.clip import clip_names
from vistill.models.vit import VisionTransformer

LAYOUT = json.loads((Path(__file__).parent / "fd" / "checkpoint_layout.json").read_text())


def entries(name: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """Tensors without memory, one for every entry under `prefix`."""
    state = {}
    for entry in LAYOUT[name]:
        first, last = entry.get("i", "0..0").split("..")
        for i in range(int(first), int(last) + 1):
            full = entry["name"].replace("{i}", str(i))
            if full.startswith(prefix):
                state[full.removeprefix(prefix)] = torch.empty(entry["shape"], device="meta")
    return state


def count(model: Backbone) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "prefix", "size"),
    [
        ("pretrain_clip_vit_base", "encoder.", "student_vitb"),
        ("pretrain_dino_vit_base", "encoder.", "student_vitb"),
        ("pretrain_esvit_swin_base", "encoder.", "student_swinb"),
        ("finetune_vit_base", "", "finetune_vit_base"),
        ("finetune_vit_large", "", "finetune_vit_large"),
        ("finetune_swin_base", "", "finetune_swin_base"),
    ],
)
def test_students_of_the_published_sizes(name, prefix, size):
    state = entries(name, prefix)
    with torch.device("meta"):
        model = backbone_from_state(state, name)
    assert model.image_size == (224, 224)
    names = {published(k): v.shape for k, v in beit_names(model.state_dict()).items()}
    left = set(state) - set(names)
    buffers = ("relative_position_index", "relative_coords_table", "attn_mask")
    assert {k for k in left if not k.endswith(buffers)} == {
        k for k in state if k.startswith(("head.", "fc_norm."))
    }
    heads = {k: v for k, v in state.items() if k.startswith(("head.", "fc_norm."))}
    missing = {k: shape.numel() for k, shape in names.items() if k not in state}
    assert set(missing) <= {"norm.weight", "norm.bias"}
    ours = count(model) - sum(missing.values()) + sum(v.numel() for v in heads.values())
    assert ours == LAYOUT["params"][size]


def test_teachers_of_the_published_sizes():
    sizes = {"embed_dim": 768, "depth": 12, "num_heads": 12}
    with torch.device("meta"):
        dino = VisionTransformer(**sizes, position="learned").state_dict()
        clip = VisionTransformer(**sizes, position="learned", pre_norm=True).state_dict()
        esvit = backbone_from_state(entries("pretrain_esvit_swin_base", "feature_model."), "esvit")
    found = entries("pretrain_dino_vit_base", "feature_model.")
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in dino.items()}
    found = clip_names(entries("pretrain_clip_vit_base", "feature_model."))
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in clip.items()}
    assert (esvit.depth, esvit.width, esvit.build["args"]["window_size"]) == (24, 1024, 14)


def test_either_network_of_a_training_checkpoint(golden, tmp_path):
    case = golden("fd_step_clip", "fd")
    path = tmp_path / "ckpt.safetensors"
    save_file(case.state, path)
    student, teacher = (
        load_backbone(f"file:{path},num_heads={heads},branch={branch}")
        for branch, heads in (("student", 3), ("teacher", 4))
    )
    assert (student.relative_position, student.width) == ("shared", 24)
    assert (teacher.pre_norm, teacher.width) == (True, 28)
