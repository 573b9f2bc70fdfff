"""KDEP: fixed maps of every kind, what fits together, and what both sides see."""

import pytest
import torch
from torch import nn

from vistill.batch import Batch
from vistill.errors import UserError
from vistill.methods import build_method
from vistill.methods.kdep import KDEP
from vistill.models.build import create_backbone
from vistill.models.pooled import PooledBackbone
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


def fitted(method: KDEP, pictures: int = 40) -> KDEP:
    fitting = method.fitting(pictures)
    if fitting is not None:
        for seed in range(pictures // 4):
            fitting.add(batch(seed=seed))
        assert fitting.count == pictures
        method.install(fitting.result())
    return method


@pytest.mark.parametrize("transform", ["none", "pts", "sn", "sm_rank", "sm_linear"])
@torch.no_grad()
def test_svd_and_transforms(transform: str) -> None:
    method = fitted(KDEP(cnn(5), cnn(9), transform=transform, fit_view="eval"))
    x = torch.cat([method.teacher_output(batch(seed=seed)) for seed in range(10)])
    target = method.map(x)
    assert target.shape == (40, 5)
    aligned = method.map.aligned(x)
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
    by_variance = fitted(KDEP(cnn(3), cnn(9), align="channel_var", **plain))
    x = torch.cat([by_variance.teacher_output(batch(seed=seed)) for seed in range(10)])
    order = x.std(0).argsort(descending=True)[:3]
    assert torch.equal(by_variance.map(x), x[:, order])
    drawn = KDEP(cnn(3), cnn(9), align="channel_random", channel_seed=4, **plain)
    assert drawn.fitting(40) is None
    again = KDEP(cnn(3), cnn(9), align="channel_random", channel_seed=4, **plain)
    assert torch.equal(drawn.map(x), again.map(x))
    assert len(set(drawn.map.index.tolist())) == 3
    nearest = KDEP(cnn(3), cnn(9), align="interpolate", **plain)
    assert torch.equal(nearest.map(x), x[:, [0, 3, 6]])


def test_only_the_student_learns_and_only_towards_the_target() -> None:
    method = fitted(KDEP(cnn(5), cnn(9))).train()
    losses = method(batch())
    torch.testing.assert_close(losses.total.detach(), 3 * losses.terms["feature"])
    losses.total.backward()
    assert method.backbone.module.conv.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in method.teacher.parameters())
    assert not method.teacher.training
    assert not any(name.startswith("map.") for name in method.state_dict())


@pytest.mark.parametrize("wider", ["pad", "interpolate"])
def test_a_wider_student(wider: str) -> None:
    with pytest.raises(UserError, match=r"has 9 channels and the teacher's only 5, so no target"):
        KDEP(cnn(9), cnn(5))
    method = fitted(KDEP(cnn(9), cnn(5), wider=wider))
    target = method.targets(batch())
    assert target.shape == (4, 9)
    if wider == "pad":
        assert bool((target[:, 5:] == 0).all())
        assert bool((target[:, :5] != 0).any())
    else:
        assert torch.equal(target[:, 0], target[:, 1])
    assert method(batch()).total.isfinite()


def test_too_few_pictures_are_told_before_the_pass() -> None:
    method = KDEP(cnn(5), cnn(9))
    with pytest.raises(UserError, match=r"only rank 4 on 5 pictures"):
        method.fitting(5)
    flat = Calibration.of(_moments_of(torch.ones(40, 9) * torch.rand(40, 1)))
    with pytest.raises(UserError, match="only rank 1"):
        method.install(flat.state())


def _moments_of(x: torch.Tensor):
    from vistill.targets.moments import Moments

    moments = Moments(x.shape[1])
    moments.add(x)
    return moments


def test_a_target_that_nobody_fitted() -> None:
    with pytest.raises(RuntimeError, match="seen once before the first step"):
        KDEP(cnn(5), cnn(9))(batch())


def test_dead_channels_have_no_std_ratio() -> None:
    method = KDEP(cnn(3), cnn(9), transform="sm_linear")
    x = torch.randn(40, 9)
    x[:, 2] = 0
    with pytest.raises(UserError, match="1 of the teacher's 9 channels never vary"):
        method.map.fit(Calibration.of(_moments_of(x)))
    given = KDEP(cnn(3), cnn(9), transform="sm_linear", std_ratio=2.98)
    given.map.fit(Calibration.of(_moments_of(x)))
    torch.testing.assert_close(given.map.wanted[[0, -1]], torch.tensor([2.98, 1.0]))


def test_conv1x1_learns_on_the_side_of_the_student() -> None:
    method = KDEP(cnn(5), cnn(9), align="conv1x1").train()
    assert method.fitting(4) is None
    target = method.targets(batch())
    assert target.shape == (4, 9)
    assert bool((target >= 0).all())  # after the last activation, untransformed
    method(batch()).total.backward()
    assert method.trained.aligner[0].weight.grad.abs().sum() > 0


def test_transformers_on_either_side() -> None:
    vit = create_backbone("vit", image_size=16, patch_size=8, embed_dim=12, depth=1, num_heads=2)
    assert fitted(KDEP(vit, cnn(15)))(batch()).total.isfinite()
    assert fitted(KDEP(cnn(5), vit))(batch()).total.isfinite()


def test_views_are_shared_bounded_and_for_training_only() -> None:
    method = fitted(KDEP(cnn(5), cnn(9), lighting_std=5.0))
    once, again = (method.view(batch(16), augment=True).pixels for _ in range(2))
    assert torch.equal(once, again)
    assert (once.min(), once.max()) == (0.0, 1.0)
    assert once.flatten(1).unique(dim=0).shape[0] > 1
    method.eval()
    plain = KDEP(cnn(5), cnn(9), lighting_std=0, color_jitter=None)
    assert torch.equal(method.view(batch(), augment=False).pixels, batch().pixels)
    assert torch.equal(plain.view(batch(), augment=True).pixels, batch().unit_pixels())


@torch.no_grad()
def test_targets_stay_in_fp32_under_autocast() -> None:
    method = fitted(KDEP(cnn(5), cnn(9)))
    feature = method.teacher_output(batch())
    expected = method.map(feature)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(method.map(feature), expected)


def test_settings_of_other_methods_are_refused() -> None:
    def build(**reading: float) -> None:
        build_method("kdep", cnn(5), cnn(9), options={}, **reading)

    with pytest.raises(UserError, match=r"teacher\.block"):
        build(teacher_block=3)
    with pytest.raises(UserError, match=r"student\.drop_path"):
        build(student_drop_path=0.1)
    with pytest.raises(UserError, match="kdep needs a teacher"):
        build_method("kdep", cnn(5), None, options={})
    with pytest.raises(UserError, match="needs equal widths"):
        KDEP(cnn(5), cnn(9), align="identity")
