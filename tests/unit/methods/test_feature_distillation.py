"""Every switch of feature distillation trains what it should; what does not fit is refused."""

import pytest
import torch
from building import build
from torch import nn

from vistill.batch import Batch
from vistill.errors import UserError
from vistill.methods.feature_distillation import FeatureDistillation
from vistill.methods.output_maps import resize_map
from vistill.methods.unreached import freeze_unreached
from vistill.models.adapters.any_transformer import ModuleBackbone
from vistill.models.vit import VisionTransformer


def vit(width: int, **changes) -> VisionTransformer:
    sizes = {"image_size": 16, "patch_size": 8, "embed_dim": width, "depth": 2, "num_heads": 2}
    return VisionTransformer(**(sizes | changes))


def fd(student, teacher, **options) -> FeatureDistillation:
    return build("feature_distillation", student, teacher, **options)


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return Batch(pixels, seeds=torch.arange(3) * 977, ids=torch.arange(3))


@torch.no_grad()
def target(method: FeatureDistillation, batch: Batch) -> torch.Tensor:
    return method.target_of(method.features(batch))


BEIT = {
    "position": "none",
    "relative_position": "shared",
    "layer_scale": 0.1,
    "qkv_bias": "no_key",
    "initialization": "truncated",
}
AXES = [
    {},
    *({"target": kind} for kind in ("patches", "class_token", "pooled")),
    {"target": "logits", "temperature": 2.0},
    *({"whitening": kind} for kind in ("channel", "l2", "none")),
    *({"loss": kind} for kind in ("mse", "l1", "cosine")),
    {"after_norm": False},
    {"beta": 0.5},
    {"projector": "mlp"},
    {"teacher_drop_path": 0.3},
    {"drop_path": 0.3},
]


@pytest.mark.parametrize("options", AXES, ids=str)
def test_every_switch_gives_gradients_to_the_student_alone(batch, options):
    torch.manual_seed(0)
    teacher = vit(24, num_classes=5)
    method = fd(vit(16, **BEIT), teacher, **options)
    method.train()
    losses = method(batch)
    assert torch.isfinite(losses.total)
    losses.total.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert method.projector is not None
    parameters = dict(method.named_parameters())
    without = [name for name, p in parameters.items() if p.grad is None]
    assert without == []
    assert teacher.training == ("teacher_drop_path" in options)


def test_the_usual_loss_is_that_of_the_paper(batch):
    student, teacher = vit(16), vit(24)
    method = fd(student, teacher, projector="linear")
    images = student.normalization(batch.unit_pixels())
    target = nn.functional.layer_norm(teacher(images), (24,))
    prediction = method.projector(student(images))
    expected = nn.functional.smooth_l1_loss(prediction, target, beta=2.0)
    torch.testing.assert_close(method(batch).total, expected)


def test_teacher_tokens_without_a_counterpart_are_left_out(batch):
    teacher = vit(24, distillation_token=True)
    for class_token in (True, False):
        method = fd(vit(16, class_token=class_token), teacher)
        assert target(method, batch).shape == (3, 4 + class_token, 24)
    tokens = teacher(teacher.normalization(batch.unit_pixels()))
    expected = nn.functional.layer_norm(tokens[:, 2:], (24,))
    torch.testing.assert_close(target(method, batch), expected)


def test_a_teacher_at_its_own_resolution(batch):
    teacher = vit(24, image_size=32, patch_size=16)
    method = fd(vit(16), teacher)
    assert method(batch).total.isfinite()
    with pytest.raises(UserError, match=r"2x2 and the teacher's 4x4.*method.resize_map=true"):
        fd(vit(16), vit(24, image_size=32))
    method = fd(vit(16), vit(24, image_size=32), resize_map=True)
    assert target(method, batch).shape == (3, 5, 24)


def test_maps_are_resized_row_by_row():
    ramp = torch.arange(4.0)[:, None].expand(4, 6)  # rows of a 4x6 grid
    tokens = torch.cat([torch.full((1, 1, 1), 9.0), ramp.reshape(1, 24, 1)], dim=1)
    resized = resize_map(tokens, 1, (4, 6), (2, 3))
    assert resized[0, 0, 0] == 9
    rows = resized[0, 1:, 0].view(2, 3)
    assert torch.equal(rows[:, :1].expand(-1, 3), rows)
    assert rows[0, 0] < rows[1, 0]


def test_a_feature_map_is_a_target_for_a_student_without_class_token(batch):
    from vistill.models.adapters.any_cnn import PooledBackbone

    torch.manual_seed(0)
    cnn = nn.Sequential(nn.Conv2d(3, 24, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    teacher = PooledBackbone(cnn, image_size=16)
    method = fd(vit(16, class_token=False), teacher)
    images = teacher.normalization(batch.unit_pixels())
    tokens = cnn[1](cnn[0](images)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(target(method, batch), nn.functional.layer_norm(tokens, (24,)))
    method(batch).total.backward()
    student = PooledBackbone(nn.Sequential(*(m for m in cnn)), image_size=16)
    assert fd(student, vit(16))(batch).total.isfinite()


def test_nothing_is_left_untrained_by_the_usual_recipe(batch):
    method = fd(vit(16, **BEIT), vit(24))
    assert freeze_unreached(method, batch) == []


def test_a_non_vit_teacher_is_read_by_hooks(batch):
    from timm.models.vision_transformer import VisionTransformer as TimmViT

    module = TimmViT(img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0)
    teacher = ModuleBackbone(module, blocks="blocks", width=24, image_size=16, norm="norm")
    method = fd(vit(16), teacher)
    expected = module.eval().forward_features(teacher.normalization(batch.unit_pixels()))
    torch.testing.assert_close(target(method, batch), nn.functional.layer_norm(expected, (24,)))


def test_drop_path_rises_from_the_first_block(batch):
    method = fd(vit(16, depth=4), vit(24), drop_path=0.3)
    assert method.student.drop_path_rates == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("student", "teacher", "options", "message"),
    [
        ({}, {"class_token": False}, {}, "method.target=patches or student.class_token=false"),
        ({}, {"class_token": False}, {"target": "class_token"}, "the teacher has no class token"),
        ({"patch_size": 4}, {}, {}, "4x4 and the teacher's 2x2"),
        ({}, {}, {"projector": "identity"}, "the student has 16 and the teacher 24"),
        ({}, {}, {"target": "logits"}, "classifier=keep"),
    ],
)
def test_what_does_not_fit_is_refused(student, teacher, options, message):
    with pytest.raises(UserError, match=message):
        fd(vit(16, **student), vit(24, **teacher), **options)


def test_a_teacher_is_needed():
    with pytest.raises(UserError, match="needs a teacher"):
        fd(vit(16), None)
    with pytest.raises(
        UserError, match=r"does not read teacher\.block, so teacher\.block=1 has no"
    ):
        fd(vit(16), vit(24), block=1)
