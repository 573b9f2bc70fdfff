"""Detectors and segmenters as students: the backbone is found, trained, and handed back in a whole
that is otherwise untouched."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from distilled_detectors import CELLS, QUICK
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.misc import FrozenBatchNorm2d

import vistill
from vistill.config.multi_student import student_models
from vistill.errors import UserError
from vistill.methods.named_layers import inner_module
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.adapters.detectors import detector_backbone
from vistill.models.backbone import Normalization, Tap
from vistill.models.build import create_backbone, load_backbone, rebuild
from vistill.models.maps import FeatureMaps


def stage(before: int, behind: int, norm: Any = nn.BatchNorm2d) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, behind, 3, stride=2, padding=1), norm(behind), nn.ReLU(inplace=True)
    )


def faster_rcnn(norm: Any = nn.BatchNorm2d) -> FasterRCNN:
    """A small one, with batch norms in neck and head, too."""
    torch.manual_seed(0)
    stages = {"stem": stage(3, 6, norm), "layer1": stage(6, 8, norm), "layer2": stage(8, 10, norm)}
    body = nn.Sequential(OrderedDict(stages))
    neck = BackboneWithFPN(
        body, {"layer1": "0", "layer2": "1"}, [8, 10], 8, norm_layer=nn.BatchNorm2d
    )
    anchors = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    shown = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "min_size": 64}
    return FasterRCNN(neck, num_classes=4, rpn_anchor_generator=anchors, **shown)


class Yolo(nn.Module):
    """A module whose heads want something that pictures alone are not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.ModuleList([stage(3, 6), stage(6, 8), stage(8, 10)])
        self.head = nn.Sequential(nn.Conv2d(10, 4, 1), nn.BatchNorm2d(4))

    def forward(self, images: Tensor, targets: Any = None) -> Tensor:
        for part in self.model:
            images = part(images)
        scores: Tensor = self.head(images)
        return scores[targets["rows"]]


def teach(tmp_path: Path, student: Any, method: str = "feature_distillation", **more: Any) -> Any:
    result = vistill.pretrain(
        method,
        data=CELLS / "train",
        out=tmp_path / "run",
        teacher="timm/resnet10t",
        teacher_weights="random",
        student=student,
        overrides=QUICK | more,
    )
    assert result is not None
    return load_file(result.out / "export" / "last" / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "part", "width", "mean"),
    [
        pytest.param(
            "fasterrcnn_mobilenet_v3_large_320_fpn",
            *("backbone.body", 960, 0.485),
            marks=pytest.mark.slow,
        ),
        pytest.param("ssd300_vgg16", "backbone", 1024, 0.48235, marks=pytest.mark.slow),
        ("ssdlite320_mobilenet_v3_large", "backbone.features", 480, 0.5),
        ("lraspp_mobilenet_v3_large", "backbone", 960, 0.485),
    ],
)
def test_the_backbone_of_torchvisions(name: str, part: str, width: int, mean: float) -> None:
    found = create_backbone(f"torchvision/{name},num_classes=3", image_size=96)
    assert isinstance(found, PooledBackbone)
    assert found.runs is found.module.get_submodule(part)
    assert inner_module(found) is found.runs  # where layers are looked up by their names
    assert found.width == width
    assert found.normalization.mean[0] == mean
    assert found.module.state_dict().keys() == get_model(
        name, weights=None, weights_backbone=None, num_classes=3
    ).state_dict().keys()  # fmt: skip
    if name.startswith("lraspp"):
        again = rebuild(found.build or {})
        assert {k: v.shape for k, v in again.state_dict().items()} == {
            k: v.shape for k, v in found.state_dict().items()
        }
        assert len(FeatureMaps(found).widths) == 3  # heads on dense tasks see the backbone, too


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_only_the_backbone_of_a_detector_changes(tmp_path: Path, frozen: bool) -> None:
    norm = FrozenBatchNorm2d if frozen else nn.BatchNorm2d
    student, before = faster_rcnn(norm), faster_rcnn(norm).state_dict()
    maps = {"student.maps": ["layer1", "layer2"]}
    after = teach(tmp_path, student, **maps)
    assert after.keys() == before.keys()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    backbone = {name for name in before if name.startswith("backbone.body.")}
    norms = {name for name in backbone if ".1." in name}
    assert changed == (backbone - norms if frozen else backbone)
    assert all(parameter.requires_grad for parameter in student.parameters())  # to train on

    fresh = faster_rcnn(norm)
    fresh.load_state_dict(after, strict=True)
    boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0]])
    losses = fresh.train()([torch.rand(3, 64, 64)], [{"boxes": boxes, "labels": torch.tensor([1])}])
    sum(losses.values()).backward()
    assert fresh.backbone.body.stem[0].weight.grad is not None
    again = vistill.load_backbone(tmp_path / "run", into=faster_rcnn(norm))
    assert isinstance(again, PooledBackbone)
    assert again.maps == ("layer1", "layer2")
    assert again.normalization == Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert torch.equal(
        again.module.backbone.body.stem[0].weight, after["backbone.body.stem.0.weight"]
    )


def test_a_module_of_ones_own_by_the_names_of_its_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Yolo().state_dict()
    maps = {"student.maps": "model.2", "method.stages": [["model.1", "layer3"]]}
    after = teach(tmp_path, Yolo(), "kdep", **maps)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("model.")}
    Yolo().load_state_dict(after, strict=True)
    assert vistill.load_backbone(tmp_path / "run", into=Yolo()).width == 10


def test_maps_by_name_are_what_their_parts_give() -> None:
    module = Yolo()
    found = detector_backbone(module, 64, maps=["model.0", "model.2", "model.1"])
    images = torch.rand(2, 3, 64, 64)
    taps = [Tap("map_act", number) for number in range(4)]
    module.eval()
    given = found.tap(images, taps)
    expected = images
    for number, part in zip((1, 3, 2), module.model, strict=True):
        expected = part(expected)
        assert torch.equal(given[taps[number]], expected)
    assert torch.equal(given[taps[0]], expected)


@pytest.mark.parametrize(
    ("maps", "told"),
    [
        ([], r"no backbone is found in Yolo: no part called backbone gives feature maps; name"),
        (["model.3"], r"there is no part or map 'model.3' in Yolo.*near: model\.[012]"),
        (["model.1", "model.1"], "the map model.1 is named twice"),
        (["model"], "'model' is not come by in Yolo"),
    ],
)
def test_maps_that_are_none(maps: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        detector_backbone(Yolo(), 64, maps=maps)


def test_more_that_is_wrong_is_told_before_any_work(tmp_path: Path) -> None:
    for student, more, told in (
        (Yolo(), {}, r"a Yolo has to be wrapped first.*no backbone is found in Yolo"),
        (
            Yolo(),
            {"student.maps": ["model.1", "model.2"], "method.map_weights": [1]},
            r"method.map_weights holds 1, one for each map, but student.maps names 2",
        ),
        (
            "timm/vit_tiny_patch16_224",
            {"student.maps": ["blocks"]},
            "student.maps names feature maps, and what .* makes are tokens of 12 blocks",
        ),
        ("vit_tiny", {"student.maps": ["a"]}, "student.maps=.a. has no use with"),
        ("torchvision/fasterrcnn_resnet50", {}, "near: fasterrcnn_resnet50_fpn"),
        ("torchvision/fcn_resnet50,classes=3", {}, "is not the option num_classes=NUMBER"),
    ):
        with pytest.raises(UserError, match=told):
            teach(tmp_path, student, **more)
    with pytest.raises(UserError, match=r"kdep reads one map of its student, and student.maps na"):
        teach(tmp_path, Yolo(), "kdep", **{"student.maps": ["model.1", "model.2"]})
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_file_tells_classes_and_frozen_norms(tmp_path: Path) -> None:
    name = "ssdlite320_mobilenet_v3_large"
    theirs = get_model(name, weights=None, weights_backbone=None, num_classes=4)
    state = theirs.state_dict()
    torch.save({"model": state, "epoch": 3}, tmp_path / "whole.pth")
    found: Any = load_backbone(f"torchvision/{name}:{tmp_path}/whole.pth", image_size=96)
    assert all(torch.equal(value, state[key]) for key, value in found.module.state_dict().items())
    assert found.build["args"]["options"] == {"num_classes": 4}
    assert not found.untrained
    assert not any(isinstance(part, FrozenBatchNorm2d) for part in found.module.modules())
    kept = {key: value for key, value in state.items() if "num_batches" not in key}
    torch.save(kept, tmp_path / "frozen.pth")
    found = create_backbone(f"torchvision/{name}:{tmp_path}/frozen.pth", image_size=96)
    norms = [type(part) for part in found.runs.modules() if "BatchNorm" in type(part).__name__]
    assert set(norms) == {FrozenBatchNorm2d}
    again: Any = rebuild(found.build)
    assert again.module.state_dict().keys() == found.module.state_dict().keys()
    assert all(torch.equal(value, found.module.state_dict()[key]) for key, value in kept.items())
    with pytest.raises(UserError, match="does not fit the model: missing backbone"):
        load_backbone(f"torchvision/lraspp_mobilenet_v3_large:{tmp_path}/whole.pth")


def test_commas_part_students_and_options() -> None:
    text = "vit_tiny, torchvision/fcn_resnet50,num_classes=3,timm/resnet18"
    assert student_models(text) == [
        *("vit_tiny", "torchvision/fcn_resnet50,num_classes=3", "timm/resnet18")
    ]
