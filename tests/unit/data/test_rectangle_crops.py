"""Crops of pictures and clips with unequal sides: height first, nothing squeezed by accident."""

import numpy as np
import pytest
import torch

from vistill.augment.crops import covering
from vistill.data import EvalTransform, TrainTransform
from vistill.data.video.device import DeviceCrop
from vistill.data.video.transforms import (
    VideoTestTransform,
    VideoTrainTransform,
    multi_scale_boxes,
)

SIZES = [(16, 32), (32, 16), (24, 40)]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def slopes(height: int, width: int) -> torch.Tensor:
    """Red grows downwards and green to the right, one grey level a pixel."""
    rows = torch.arange(height)[:, None].expand(height, width)
    columns = torch.arange(width).expand(height, width)
    return torch.stack([rows, columns, rows * 0], 2).byte().permute(2, 0, 1)


def steps(image: torch.Tensor) -> tuple[float, float]:
    """Grey levels per row of red, and per column of green, away from borders."""
    red, green = image[0].float(), image[1].float()
    down, right = (red[-3] - red[2]).mean(), (green[:, -3] - green[:, 2]).mean()
    return float(down / (len(red) - 5)), float(right / (red.shape[1] - 5))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(100, 100), (60, 200), (200, 60)])
def test_tests_keep_the_shape_of_things(size: tuple[int, int], shape: tuple[int, int]) -> None:
    image = slopes(*shape)
    seen = EvalTransform(size)(image)
    assert seen.shape == (3, *size)
    down, right = steps(seen)
    assert down == pytest.approx(right, rel=0.06)
    # All that a margin of an eighth leaves of what is as high, or as wide, as the picture.
    share = min(shape[0] / size[0], shape[1] / size[1]) * 0.875
    assert down == pytest.approx(share, rel=0.06)
    middle = seen.float().mean((1, 2))[:2]
    assert middle.tolist() == pytest.approx([shape[0] / 2, shape[1] / 2], abs=2)


@pytest.mark.parametrize("size", SIZES)
def test_random_crops_are_stretched_within_the_ratio(size: tuple[int, int]) -> None:
    crop = TrainTransform(size, scale=(0.1, 0.3), ratio=(4 / 5, 5 / 4), flip=0.0)
    stretched = []
    for seed in range(40):
        seen = crop(slopes(200, 200), rng(seed))
        assert seen.shape == (3, *size)
        down, right = steps(seen)
        stretched.append(right / down)
    assert 0.75 < min(stretched) < 0.9
    assert 1.1 < max(stretched) < 1.35


def test_a_square_is_cut_as_before() -> None:
    image = torch.randint(0, 256, (3, 61, 83), dtype=torch.uint8)
    for seed in range(5):
        pair = [TrainTransform(size)(image, rng(seed)) for size in (24, (24, 24))]
        assert torch.equal(*pair)
    assert torch.equal(EvalTransform(24)(image), EvalTransform((24, 24))(image))


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (3, 7)])
def test_long_lines_stay_small(shape: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    for size in SIZES:
        assert EvalTransform(size)(image).shape == (3, *size)
        assert TrainTransform(size)(image, rng()).shape == (3, *size)


def test_covering_keeps_the_shape_and_covers() -> None:
    assert covering(100, 100, (16, 32)) == (32, 32)
    assert covering(60, 200, (32, 16)) == (32, 106)
    assert covering(200, 60, (16, 32)) == (106, 32)


def frames(height: int, width: int, count: int = 4) -> torch.Tensor:
    return slopes(height, width)[:, None].expand(-1, count, -1, -1).permute(1, 2, 3, 0).contiguous(
    ).permute(3, 0, 1, 2)  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(100, 100), (60, 200), (200, 60)])
def test_views_of_a_clip_lie_along_what_sticks_out(
    size: tuple[int, int], shape: tuple[int, int]
) -> None:
    first, middle, last = VideoTestTransform(size, 1, 3)(frames(*shape))
    assert first.shape == middle.shape == last.shape == (3, 4, *size)
    down, right = steps(middle[:, 0])
    assert down == pytest.approx(right, rel=0.06)
    assert torch.equal(VideoTestTransform(size)(frames(*shape))[0], middle)
    free = 0 if shape[0] * size[1] > shape[1] * size[0] else 1  # red: down; green: right
    means = [float(view[free].float().mean()) for view in (first, middle, last)]
    assert means[0] < means[1] < means[2]
    assert means[0] + means[2] == pytest.approx(shape[free], abs=3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (17, 33), (3, 2)])
def test_multi_scale_boxes_are_shaped_as_the_clip(
    size: tuple[int, int], shape: tuple[int, int]
) -> None:
    boxes = multi_scale_boxes(*shape, size)
    assert [len(anchors) for anchors in boxes] == [13] * 10
    for box in (box for anchors in boxes for box in anchors):
        assert 0 <= box.top <= shape[0] - box.height
        assert 0 <= box.left <= shape[1] - box.width
    if min(shape) > 30:
        largest = boxes[0][0]
        assert largest.width / largest.height == pytest.approx(size[1] / size[0], rel=0.05)
        assert largest.height == shape[0] or largest.width == shape[1]


@pytest.mark.parametrize("crop", ["multi_scale", "resized"])
@pytest.mark.parametrize("shape", [(40, 70), (300, 90)])
def test_the_device_cuts_what_a_loader_would(crop: str, shape: tuple[int, int]) -> None:
    transform = VideoTrainTransform((16, 24), crop, flip=0.5)
    clip = torch.randint(0, 256, (1, *shape, 3), dtype=torch.uint8).expand(3, -1, -1, -1)
    clip = clip.contiguous().permute(3, 0, 1, 2)
    cutter = DeviceCrop(transform, torch.device("cpu"))
    small = cutter.bounded(clip)
    assert small.shape[2] >= 16
    assert small.shape[3] >= 24
    for seed in range(6):
        crops = [cutter.draw(small, rng(seed)) for _ in range(1)]
        row = cutter.cut(cutter.pack([small], [[0, *crops[0]]]))[0]
        assert row.shape == (3, 3, 16, 24)
        expected = transform(small, rng(seed))
        assert (row.int() - expected.int()).abs().max() <= 1
