"""Feature distillation of several named maps, each by a projector of its own."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vistill.batch import Batch
from vistill.config.methods import FeatureDistillationConfig
from vistill.errors import UserError
from vistill.methods.feature_distillation import FeatureDistillation
from vistill.methods.ingredients import Ingredients
from vistill.methods.several_maps import SeveralMaps
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.backbone import Tap
from vistill.models.vit import VisionTransformer


def net(*widths: int) -> PooledBackbone:
    stages = [
        nn.Sequential(nn.Conv2d(before, behind, 3, stride=4, padding=1), nn.ReLU())
        for before, behind in zip((3, *widths), widths, strict=False)
    ]
    return PooledBackbone(nn.Sequential(*stages), image_size=64)


def built(teacher: Any, maps: tuple[str, ...] = ("0", "1"), **switches: Any) -> Any:
    torch.manual_seed(0)
    student = net(5, 6)
    student.name_maps(maps)
    config = FeatureDistillationConfig(**switches)
    return FeatureDistillation.build(Ingredients("feature_distillation", student, teacher, config))


def batch() -> Batch:
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return Batch(pixels, seeds=torch.arange(2), ids=torch.arange(2))


def small_vit() -> VisionTransformer:
    torch.manual_seed(1)
    return VisionTransformer(image_size=64, patch_size=8, embed_dim=12, depth=3, num_heads=2)


def test_each_map_regresses_the_block_that_is_named() -> None:
    teacher = small_vit()
    method = built(teacher, teacher_maps=["1", "3"], map_weights=[0.5, 2.0], loss="mse")
    assert isinstance(method, SeveralMaps)
    losses = method.eval()(batch())
    images = teacher.normalization(batch().pixels)
    student: Any = method.student
    ours = student.normalization(batch().pixels)
    total = 0.0
    for number, (block, side, weight) in enumerate([(1, 16, 0.5), (3, 4, 2.0)]):
        seen = teacher.tap(images, [Tap("block", block)])[Tap("block", block)][:, 1:]
        grid = seen.mT.unflatten(2, (8, 8))
        grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
        target = F.layer_norm(grid.flatten(2).mT, (12,))
        ours = student.module[number](ours)
        loss = F.mse_loss(method.projectors[number](ours.flatten(2).mT), target)
        torch.testing.assert_close(losses.terms[f"map{number + 1}"], loss)
        total += weight * loss
    torch.testing.assert_close(losses.total, total)
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_maps_of_a_cnn_teacher_and_its_last_map() -> None:
    teacher = net(7, 9)
    named = built(teacher, teacher_maps=["1", "0"])
    features = named.teacher_features(batch())
    assert sorted(value.shape for value in features.values()) == [(2, 16, 9), (2, 256, 7)]
    assert [target.shape for target in named.target_of(features)] == [(2, 256, 9), (2, 16, 7)]
    last = built(net(7, 9))
    features = last.teacher_features(batch())
    assert [value.shape for value in features.values()] == [(2, 16, 9)]  # read once
    assert [target.shape for target in last.target_of(features)] == [(2, 256, 9), (2, 16, 9)]
    assert not isinstance(built(net(7, 6), ("1",), resize_map=True), SeveralMaps)


@pytest.mark.parametrize(
    ("switches", "told"),
    [
        ({"teacher_maps": ["1", "4"]}, "the teacher has blocks 1 to 3, none is '4'"),
        ({"teacher_maps": ["1", "norm"]}, "blocks 1 to 3, none is 'norm'"),
        ({"teacher_maps": [1]}, "method.teacher_maps holds 1, one for each map, but .* names 2"),
        ({"map_weights": [1, 2, 3]}, "method.map_weights holds 3"),
        ({"target": "pooled"}, "method.target=pooled compares one vector of the last map"),
        ({"projector": "identity"}, "the student's 0 has 5 channels and the teacher 12"),
    ],
)
def test_what_does_not_fit(switches: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        built(small_vit(), **switches)
