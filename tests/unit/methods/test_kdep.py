"""KDEP: fixed maps of every kind, what fits together, and what both sides see."""

import pytest
import torch
from building import build
from torch import nn

from vistill.batch import Batch
from vistill.errors import UserError
from vistill.methods.kdep import KDEP
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.build import create_backbone
from vistill.targets.calibration import Calibration


class CNN(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 4, stride=4)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)).relu_().mean((2, 3))


def cnn(width: int) -> PooledBackbone:
    torch.manual_seed(width)
    return PooledBackbone(CNN(width), image_size=16)


def batch(n: int = 4, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, 16, 16), generator=generator, dtype=torch.uint8)
    ids = torch.arange(n) + 100 * seed
    return Batch(pixels=pixels, seeds=ids, ids=ids)


def kdep(student, teacher, **options) -> KDEP:
    return build("kdep", student, teacher, **options)


@torch.no_grad()
def target_of(method: KDEP, batch: Batch) -> dict[str, torch.Tensor]:
    return method.target_of(method.features(batch))


def fitted(method: KDEP, pictures: int = 40) -> KDEP:
    target_fit = method.target_fit(pictures)
    if target_fit is not None:
        for seed in range(pictures // 4):
            target_fit.add(batch(seed=seed))
        assert target_fit.count == pictures
        method.use_fit(target_fit.result())
    return method


@pytest.mark.parametrize("transform", ["none", "pts", "sn", "sm_rank", "sm_linear"])
@torch.no_grad()
def test_svd_and_transforms(transform: str) -> None:
    method = fitted(kdep(cnn(5), cnn(9), transform=transform, fit_view="eval"))
    x = torch.cat([method.teacher_features(batch(seed=seed)) for seed in range(10)])
    target = method.maps["feature"](x)
    assert target.shape == (40, 5)
    aligned = method.maps["feature"].aligned(x)
    torch.testing.assert_close(aligned.mean(0), torch.zeros(5), atol=1e-6, rtol=0)
    std = aligned.std(0)
    assert bool((std[:-1] > std[1:]).all())
    if transform == "none":
        torch.testing.assert_close(target, aligned)
    elif transform == "pts":
        torch.testing.assert_close(target.sign() * 0.1 * target.abs() ** 3, aligned)
    elif transform == "sn":
        torch.testing.assert_close(target.std(0), torch.full((5,), 1.3975))
    elif transform == "sm_rank":
        torch.testing.assert_close(target.std(0), x.std(0).sort(descending=True).values[:5])
    else:
        ratio = x.std(0).max() / x.std(0).min()
        torch.testing.assert_close(target.std(0)[0] / target.std(0)[-1], ratio)
        torch.testing.assert_close(target.std(0)[-1], torch.tensor(1.0))


@torch.no_grad()
def test_channels() -> None:
    plain = {"transform": "none", "fit_view": "eval"}
    by_variance = fitted(kdep(cnn(3), cnn(9), align="channel_var", **plain))
    x = torch.cat([by_variance.teacher_features(batch(seed=seed)) for seed in range(10)])
    order = x.std(0).argsort(descending=True)[:3]
    assert torch.equal(by_variance.maps["feature"](x), x[:, order])
    drawn = kdep(cnn(3), cnn(9), align="channel_random", channel_seed=4, **plain)
    assert drawn.target_fit(40) is None
    again = kdep(cnn(3), cnn(9), align="channel_random", channel_seed=4, **plain)
    assert torch.equal(drawn.maps["feature"](x), again.maps["feature"](x))
    assert len(set(drawn.maps["feature"].index.tolist())) == 3
    nearest = kdep(cnn(3), cnn(9), align="interpolate", **plain)
    assert torch.equal(nearest.maps["feature"](x), x[:, [0, 3, 6]])


def test_only_the_student_learns_and_only_towards_the_target() -> None:
    method = fitted(kdep(cnn(5), cnn(9))).train()
    losses = method(batch())
    torch.testing.assert_close(losses.total.detach(), 3 * losses.terms["feature"])
    losses.total.backward()
    assert method.student.module.conv.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in method.teacher.parameters())
    assert not method.teacher.training
    assert not any(name.startswith("maps.") for name in method.state_dict())


@pytest.mark.parametrize("wider", ["pad", "interpolate"])
def test_a_wider_student(wider: str) -> None:
    with pytest.raises(UserError, match=r"has 9 channels and the teacher's only 5, so no target"):
        kdep(cnn(9), cnn(5))
    method = fitted(kdep(cnn(9), cnn(5), wider=wider))
    target = target_of(method, batch())["feature"]
    assert target.shape == (4, 9)
    if wider == "pad":
        assert bool((target[:, 5:] == 0).all())
        assert bool((target[:, :5] != 0).any())
    else:
        assert torch.equal(target[:, 0], target[:, 1])
    assert method(batch()).total.isfinite()


def test_too_few_pictures_are_told_before_the_pass() -> None:
    method = kdep(cnn(5), cnn(9))
    with pytest.raises(UserError, match=r"only rank 4 on 5 pictures"):
        method.target_fit(5)
    flat = Calibration.of(_moments_of(torch.ones(40, 9) * torch.rand(40, 1)))
    with pytest.raises(UserError, match="only rank 1"):
        method.use_fit(flat.state())


def _moments_of(x: torch.Tensor):
    from vistill.targets.moments import Moments

    moments = Moments(x.shape[1])
    moments.add(x)
    return moments


def test_a_target_that_nobody_fitted() -> None:
    with pytest.raises(RuntimeError, match="seen once before the first step"):
        kdep(cnn(5), cnn(9))(batch())


def test_dead_channels_have_no_std_ratio() -> None:
    method = kdep(cnn(3), cnn(9), transform="sm_linear")
    x = torch.randn(40, 9)
    x[:, 2] = 0
    with pytest.raises(UserError, match="1 of the teacher's 9 channels never vary"):
        method.maps["feature"].fit(Calibration.of(_moments_of(x)))
    given = kdep(cnn(3), cnn(9), transform="sm_linear", std_ratio=2.98)
    given.maps["feature"].fit(Calibration.of(_moments_of(x)))
    torch.testing.assert_close(given.maps["feature"].wanted[[0, -1]], torch.tensor([2.98, 1.0]))


def test_conv1x1_learns_on_the_side_of_the_student() -> None:
    method = kdep(cnn(5), cnn(9), align="conv1x1").train()
    assert method.target_fit(4) is None
    target = target_of(method, batch())["feature"]
    assert target.shape == (4, 9)
    assert bool((target >= 0).all())  # after the last activation, untransformed
    method(batch()).total.backward()
    assert method.aligner[0].weight.grad.abs().sum() > 0


def test_transformers_on_either_side() -> None:
    vit = create_backbone("vit", image_size=16, patch_size=8, embed_dim=12, depth=1, num_heads=2)
    assert fitted(kdep(vit, cnn(15)))(batch()).total.isfinite()
    assert fitted(kdep(cnn(5), vit))(batch()).total.isfinite()


def test_views_are_shared_bounded_and_for_training_only() -> None:
    method = fitted(kdep(cnn(5), cnn(9), lighting_std=5.0))
    once, again = (method.view(batch(16), augment=True).pixels for _ in range(2))
    assert torch.equal(once, again)
    assert (once.min(), once.max()) == (0.0, 1.0)
    assert once.flatten(1).unique(dim=0).shape[0] > 1
    method.eval()
    plain = kdep(cnn(5), cnn(9), lighting_std=0, color_jitter=None)
    assert torch.equal(method.view(batch(), augment=False).pixels, batch().pixels)
    assert torch.equal(plain.view(batch(), augment=True).pixels, batch().unit_pixels())


@torch.no_grad()
def test_targets_stay_in_fp32_under_autocast() -> None:
    method = fitted(kdep(cnn(5), cnn(9)))
    feature = method.teacher_features(batch())
    expected = method.maps["feature"](feature)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(method.maps["feature"](feature), expected)


def test_settings_of_other_methods_are_refused() -> None:
    with pytest.raises(UserError, match=r"kdep does not read teacher\.block"):
        kdep(cnn(5), cnn(9), block=3)
    with pytest.raises(UserError, match=r"kdep does not read teacher\.drop_path"):
        kdep(cnn(5), cnn(9), teacher_drop_path=0.1)
    with pytest.raises(UserError, match=r"student\.drop_path"):
        kdep(cnn(5), cnn(9), drop_path=0.1)
    with pytest.raises(UserError, match="kdep needs a teacher"):
        kdep(cnn(5), None)
    with pytest.raises(UserError, match="needs equal widths"):
        kdep(cnn(5), cnn(9), align="identity")


@torch.no_grad()
def test_other_directions() -> None:
    plain = {"transform": "none", "fit_view": "eval"}
    whole = fitted(kdep(cnn(9), cnn(9), **plain))
    x = torch.cat([whole.teacher_features(batch(seed=seed)) for seed in range(10)])
    all_nine = whole.maps["feature"](x)
    for columns, chosen in {"second": [3, 4, 5], "last": [6, 7, 8]}.items():
        method = fitted(kdep(cnn(3), cnn(9), columns=columns, **plain))
        torch.testing.assert_close(method.maps["feature"](x), all_nine[:, chosen])
    drawn = [
        fitted(kdep(cnn(3), cnn(9), columns="random", channel_seed=seed, **plain)).maps["feature"](
            x
        )
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    with pytest.raises(UserError, match=r"directions 6 to 10, but .* rank 9"):
        fitted(kdep(cnn(5), cnn(9), columns="second"))


@torch.no_grad()
def test_directions_through_the_origin() -> None:
    method = fitted(kdep(cnn(3), cnn(9), transform="none", fit_view="eval", centred=False))
    x = torch.cat([method.teacher_features(batch(seed=seed)) for seed in range(10)])
    _, _, basis = torch.linalg.svd(x.double(), full_matrices=False)
    expected = (x.double() @ basis.T[:, :3]).abs().float()
    torch.testing.assert_close(method.maps["feature"](x).abs(), expected, atol=1e-5, rtol=1e-4)


class Deep(nn.Module):
    """Two stages and a classifier."""

    def __init__(self, widths: tuple[int, int], classes: int = 7) -> None:
        super().__init__()
        self.first = CNNStage(3, widths[0], 2)
        self.second = CNNStage(widths[0], widths[1], 2)
        self.head = nn.Linear(widths[1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x)).mean((2, 3)))


class CNNStage(nn.Sequential):
    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__(nn.Conv2d(width, out, 3, stride, 1), nn.BatchNorm2d(out), nn.ReLU(True))


def deep(*widths: int) -> PooledBackbone:
    torch.manual_seed(sum(widths))
    return PooledBackbone(Deep(widths), image_size=16, logits=True)


def test_layers_have_maps_of_their_own() -> None:
    teacher = deep(8, 12)
    method = fitted(kdep(deep(5, 6), teacher, stages=[("first", "first")], stage_weight=0.5))
    assert method.maps["feature"].basis.shape == (12, 6)
    assert method.maps["stage1"].basis.shape == (8, 5)
    seen = method.view(batch(), augment=True)
    images = teacher.normalization(seen.unit_pixels())
    mean = teacher.module.first(images).mean((2, 3))
    targets = target_of(method, seen)
    torch.testing.assert_close(targets["stage1"], method.maps["stage1"](mean))
    losses = method.eval()(batch())
    expected = 3 * losses.terms["feature"] + 0.5 * losses.terms["stage1"]
    torch.testing.assert_close(losses.total.detach(), expected)
    again = kdep(deep(5, 6), teacher, stages=[("first", "first")])
    moments = method_moments(again)
    assert set(moments.result()) >= {"basis", "stage1.basis"}


def method_moments(method: KDEP):
    target_fit = method.target_fit(40)
    target_fit.add(batch(20))
    other = method.target_fit(40)
    other.add(batch(20, seed=1))
    target_fit.merge(other.state())
    assert target_fit.count == 40
    return target_fit


def test_class_scores() -> None:
    teacher = deep(8, 12)
    both = fitted(kdep(deep(5, 6), teacher, logits_weight=2.0)).train()
    losses = both(batch())
    expected = 3 * losses.terms["feature"] + 2 * losses.terms["logits"]
    torch.testing.assert_close(losses.total.detach(), expected)
    losses.total.backward()
    assert both.classifier.weight.shape == (7, 6)
    assert both.classifier.weight.grad.abs().sum() > 0
    alone = kdep(deep(5, 6), teacher, weight=0, logits_weight=1.0)
    assert alone.target_fit(3) is None
    assert set(alone(batch()).terms) == {"logits"}
    scores = teacher.module.eval()(teacher.normalization(batch().unit_pixels()))
    torch.testing.assert_close(target_of(alone, batch())["logits"], scores)
    sure = kdep(deep(5, 6), teacher, weight=0, logits_weight=1.0, logits_entropy=1e-6)
    assert sure(batch()).total == 0  # an untrained teacher is sure of nothing


def test_what_cannot_be_matched_is_told() -> None:
    for options, message in [
        ({"weight": 0}, "method.weight=0 needs"),
        ({"logits_weight": 1.0}, "needs a teacher with its classifier"),
        ({"stages": [("frist", "conv")]}, "the student has no layer 'frist'"),
        ({"stages": [("conv", "nrm")]}, "the teacher has no layer 'nrm'; near: norm"),
        ({"align": "conv1x1", "stages": [("conv", "conv")]}, "conv1x1 is none"),
    ]:
        with pytest.raises(UserError, match=message):
            kdep(cnn(5), cnn(9), **options)
    with pytest.raises(UserError, match=r"layer 'head' is not run in front"):
        kdep(cnn(5), deep(8, 12), stages=[("conv", "head")])
    with pytest.raises(UserError, match=r"student's layer of stage1 has 9 channels and .* only 8"):
        kdep(deep(9, 6), deep(8, 12), stages=[("first", "first")])
