import numpy as np
import pytest
import torch

from vistill.data.video.transforms import (
    VideoTestTransform,
    VideoTrainTransform,
    multi_scale_boxes,
    resize_clip,
)


def still(frames: int = 5, height: int = 40, width: int = 60) -> torch.Tensor:
    """A clip in which nothing moves, in the reader's memory order."""
    frame = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8)
    return frame.expand(frames, -1, -1, -1).contiguous().permute(3, 0, 1, 2)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("crop", ["multi_scale", "resized"])
@pytest.mark.parametrize("augment", [None, "rand-m7-n4-mstd0.5-inc1"])
def test_all_frames_are_treated_alike(crop, augment):
    transform = VideoTrainTransform(32, crop, flip=0.5, rand_augment=augment)
    clip = still()
    results = [transform(clip, rng(seed)) for seed in range(8)]
    for result in results:
        assert result.shape == (3, 5, 32, 32)
        assert result.dtype == torch.uint8
        assert (result == result[:, :1]).all()
    assert len({result.numpy().tobytes() for result in results}) > 2
    assert torch.equal(transform(clip, rng(3)), results[3])


def test_flips_are_drawn_once_a_clip():
    clip = still(3, 32, 32)
    flipped = VideoTrainTransform(32, "resized", scale=(1, 1), ratio=(1, 1), flip=1.0)(clip, rng())
    assert torch.equal(flipped, clip.flip(-1))


@pytest.mark.parametrize(("height", "width"), [(40, 60), (17, 16), (15, 31), (300, 20), (3, 2)])
def test_multi_scale_boxes_lie_in_the_frame(height, width):
    boxes = multi_scale_boxes(height, width, 16)
    assert [len(anchors) for anchors in boxes] == [13] * 10
    for box in (box for anchors in boxes for box in anchors):
        assert box.top >= 0
        assert box.left >= 0
        assert 0 < box.height <= height - box.top
        assert 0 < box.width <= width - box.left


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (32, 32), (33, 500)])
@pytest.mark.parametrize(("clips", "crops"), [(1, 1), (2, 3), (3, 1), (1, 2)])
def test_views_of_a_video(height, width, clips, crops):
    clip = still(4 * clips, height, width)
    clip[:, 4:] //= 2
    views = VideoTestTransform(32, clips, crops)(clip)
    assert [view.shape for view in views] == [(3, 4, 32, 32)] * (clips * crops)
    if clips > 1:
        assert views[0].float().mean() > 1.5 * views[crops].float().mean()
    if crops == 3:
        whole = VideoTestTransform(32, clips, 1)(clip)
        assert (views[1].int() - whole[0].int()).abs().float().mean() < 40


def test_memory_order_is_kept():
    clip = still(4, 40, 60)
    assert resize_clip(clip, 20, 30).permute(1, 2, 3, 0).is_contiguous()
    assert resize_clip(clip, 40, 60) is clip
