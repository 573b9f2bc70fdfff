"""Crops, resizing and flips against Pillow's arithmetic and torchvision's definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from vistill.augment.crops import Box, crop, random_box, resize
from vistill.data import EvalTransform, TrainTransform


def smooth(height: int, width: int) -> torch.Tensor:
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 5 + k) + np.cos(y / (4 + k)) for k in range(3)]
    return torch.from_numpy(np.uint8(np.stack(waves, -1) * 60 + 128)).permute(2, 0, 1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_resize_is_pillows_within_a_grey_level() -> None:
    image = smooth(60, 80)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    for mode, filter in (("bicubic", Image.BICUBIC), ("bilinear", Image.BILINEAR)):
        ours = resize(image, 24, 30, mode).permute(1, 2, 0)
        theirs = np.array(picture.resize((30, 24), filter))
        assert (ours.int() - torch.from_numpy(theirs).int()).abs().max() <= 1


sides = st.integers(1, 400)


@given(sides, sides, st.integers(0, 2**32), st.sampled_from([0, 10]))
def test_boxes_lie_inside(height: int, width: int, seed: int, retries: int) -> None:
    box = random_box(height, width, (0.08, 1.0), (3 / 4, 4 / 3), rng(seed), retries)
    assert box.height > 0
    assert box.width > 0
    assert 0 <= box.top <= height - box.height
    assert 0 <= box.left <= width - box.width


@pytest.mark.parametrize("retries", [0, 10])
def test_box_distribution(retries: int) -> None:
    draws = rng()
    boxes = np.array(
        [random_box(200, 200, (0.2, 1.0), (3 / 4, 4 / 3), draws, retries) for _ in range(4000)]
    )
    share = boxes[:, 2] * boxes[:, 3] / 200**2
    log_ratio = np.log(boxes[:, 3] / boxes[:, 2])
    assert abs(log_ratio.mean()) < 0.02
    assert share.min() == pytest.approx(0.2, abs=0.01)
    if retries == 0:  # boxes that stick out are clipped: full side more often
        assert (boxes[:, 3] == 200).mean() > 0.06
    else:
        assert (boxes[:, 3] == 200).mean() < 0.05
    centre = boxes[:, 1] + boxes[:, 3] / 2
    assert abs(centre.mean() - 100) < 2


def test_last_resort_is_the_centre() -> None:
    assert random_box(10, 300, (1.0, 1.0), (3 / 4, 4 / 3), rng(), 10) == Box(0, 144, 10, 13)
    assert random_box(300, 10, (1.0, 1.0), (3 / 4, 4 / 3), rng(), 10) == Box(144, 0, 13, 10)


def test_train_transform_is_crop_resize_flip() -> None:
    image = smooth(50, 70)
    transform = TrainTransform(32, flip=1.0)
    box = random_box(50, 70, (0.2, 1.0), (3 / 4, 4 / 3), rng(5), 10)
    expected = resize(crop(image, box), 32, 32, "bicubic").flip(-1)
    assert torch.equal(transform(image, rng(5)), expected)
    assert torch.equal(transform(image, rng(5)), transform(image, rng(5)))
    assert not torch.equal(transform(image, rng(5)), transform(image, rng(6)))
    assert transform(image, rng()).stride() == (1, 96, 3)


def test_flip_rate() -> None:
    ramp = torch.arange(8, dtype=torch.uint8).expand(3, 8, 8)
    transform = TrainTransform(8, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.25)
    draws = rng()
    flips = sum(bool(transform(ramp, draws)[0, 0, 0] == 7) for _ in range(1000))
    assert 200 < flips < 300


@pytest.mark.parametrize("shape", [(60, 80), (83, 61), (224, 224), (20, 30)])
@pytest.mark.parametrize("size", [24, 32])
def test_eval_transform_is_torchvisions(shape: tuple[int, int], size: int) -> None:
    image = smooth(*shape)
    shorter = int(size / 0.875)
    theirs = v2.CenterCrop(size)(
        v2.Resize(shorter, v2.InterpolationMode.BICUBIC, antialias=True)(image)
    )
    ours = EvalTransform(size)(image)
    assert (ours.int() - theirs.int()).abs().max() <= 1


def test_no_margin_above_224() -> None:
    assert EvalTransform(224).covered == (256, 256)
    assert EvalTransform(256).covered == (256, 256)
    assert EvalTransform(256)(smooth(100, 120)).shape == (3, 256, 256)


@pytest.mark.parametrize("shape", [(1, 1), (1, 30_000), (30_000, 2)])
def test_extreme_shapes(shape: tuple[int, int]) -> None:
    image = torch.full((3, *shape), 7, dtype=torch.uint8)
    for transform in (EvalTransform(16), TrainTransform(16), TrainTransform(16, retries=0)):
        out = transform(image, rng())
        assert out.shape == (3, 16, 16)
        assert (out == 7).all()
