"""Published KDEP checkpoints: names in every form they are handed on in."""

import pickle
from pathlib import Path

import pytest
import torch
from torchvision.models import mobilenet_v2, resnet18

from vistill.errors import UserError
from vistill.models.build import load_backbone
from vistill.models.export import read_backbone, save_backbone
from vistill.models.files.cnn import is_cnn, plain_names
from vistill.models.files.weight_files import read_weights

FORMS = ["official", "classification", "segmentation", "detectron2"]


def official(golden):
    """The published training checkpoint of a ResNet-18 with random values, and its description."""
    (expected,) = golden("checkpoint_names", "kdep").info
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in expected["shapes"].items():
        counter = name.endswith("num_batches_tracked")
        state[name] = torch.tensor(7) if counter else torch.rand(shape, generator=generator)
    for name in expected["official_to_plain"]:
        copy = name.replace("module.model.", "module.attacker.model.", 1)
        state[copy] = state[name]
    return state, expected


@pytest.mark.parametrize("form", FORMS)
def test_names(golden, form, tmp_path: Path):
    state, expected = official(golden)
    renamed = dict(state)
    if form != "official":
        mapping = expected[f"official_to_{form}"]
        renamed = {new: state[old] for old, new in mapping.items()}
    path = tmp_path / "weights.pkl"
    if form == "detectron2":
        arrays = {name: tensor.numpy() for name, tensor in renamed.items()}
        content = {"model": arrays, "__author__": "KDEP", "matching_heuristics": True}
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(renamed if form == "segmentation" else {"model": renamed, "epoch": 0}, path)
    plain = plain_names(read_weights(path).state)
    wanted = {new: state[old] for old, new in expected["official_to_plain"].items()}
    assert set(plain) == set(wanted) == set(resnet18().state_dict())
    assert all(torch.equal(plain[name], tensor) for name, tensor in wanted.items())


def test_the_projector_of_the_1x1_convolution_is_left_aside(golden, tmp_path: Path):
    case = golden("align_conv1x1_0", "kdep")
    parts = {name.split(".")[0] for name in case.state}
    assert {"emb", "l2norm"} <= parts
    inside = {f"module.model.model.{name}": tensor for name, tensor in case.state.items()}
    torch.save({"model": inside}, tmp_path / "checkpoint.pt")
    plain = plain_names(read_weights(tmp_path / "checkpoint.pt").state)
    assert {name.split(".")[0] for name in plain} == parts - {"emb", "l2norm"}


@pytest.mark.slow
def test_a_training_checkpoint_is_a_backbone(golden, tmp_path: Path):
    state, expected = official(golden)
    content = dict.fromkeys(expected["top_level_keys_of_training_checkpoint"])
    assert len(state) >= expected["n_entries"] - 4
    path = tmp_path / "checkpoint.pt"
    torch.save(content | {"model": state, "epoch": 90}, path)
    model = load_backbone(f"file:{path}", image_size=64)
    assert (model.width, model.image_size, model.origin) == (512, (64, 64), f"file {path}")
    assert torch.equal(model.module.conv1.weight, state["module.model.model.conv1.weight"])
    assert torch.equal(model.module.fc.weight, state["module.model.model.fc.weight"])
    save_backbone(model, tmp_path / "export")
    again = read_backbone(tmp_path / "export")
    assert torch.equal(again.module.conv1.weight, model.module.conv1.weight)


@pytest.mark.slow
def test_plain_files_and_others(tmp_path: Path):
    path = tmp_path / "plain.pth"
    torch.save(mobilenet_v2(num_classes=5).state_dict(), path)
    model = load_backbone(f"file:{path}", image_size=32)
    assert model.width == 1280
    odd = resnet18().state_dict() | {"layer1.0.conv1.weight": torch.zeros(3, 3, 3, 3)}
    assert is_cnn(odd)
    torch.save(odd, path)
    with pytest.raises(UserError, match="holds a CNN that is none of resnet18"):
        load_backbone(f"file:{path}")
    assert not is_cnn({"patch_embed.proj.weight": torch.zeros(1)})
