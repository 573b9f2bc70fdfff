import pytest
import torch

from vistill.augment.erasing import random_erasing

SEEDS = torch.arange(600) * 104729 + 5


def erased_parts(height: int, width: int, probability: float = 1.0) -> torch.Tensor:
    marked = torch.full((len(SEEDS), 3, height, width), 100.0)
    return random_erasing(marked, SEEDS, probability) != 100.0


def test_share_of_erased_pictures():
    touched = erased_parts(16, 16, 0.25).flatten(1).any(1).float().mean()
    assert touched == pytest.approx(0.25, abs=0.05)


def test_every_erased_part_is_a_rectangle_of_the_wanted_size():
    inside = erased_parts(24, 32)
    assert torch.equal(inside[:, 0], inside[:, 1])
    one = inside[:, 0]
    rows, columns = one.any(2), one.any(1)
    assert torch.equal(one, rows[:, :, None] & columns[:, None, :])
    for line in (rows, columns):
        assert (line[:, 1:] != line[:, :-1]).sum(1).max() <= 2
    area = one.flatten(1).float().mean(1)
    assert area.min() > 0.01
    assert area.max() < 0.37
    assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    assert rows[:, 0].any()
    assert rows[:, -1].any()
    assert columns[:, -1].any()


def test_noise_is_standard_normal_and_belongs_to_the_sample():
    images = torch.zeros(len(SEEDS), 3, 32, 32)
    erased = random_erasing(images, SEEDS, 1.0)
    noise = erased[erased != 0]
    assert noise.mean() == pytest.approx(0.0, abs=0.01)
    assert noise.std() == pytest.approx(1.0, abs=0.01)
    assert noise.abs().max() > 4
    order = torch.randperm(len(SEEDS), generator=torch.Generator().manual_seed(0))
    assert torch.equal(random_erasing(images, SEEDS[order], 1.0), erased[order])


def test_frames_of_a_clip_share_the_rectangle_and_not_the_noise(monkeypatch):
    clips = torch.full((40, 3, 4, 16, 16), 100.0)
    erased = random_erasing(clips, SEEDS[:40], 0.5)
    inside = erased != 100.0
    assert torch.equal(inside, inside[:, :1, :1].expand_as(inside))
    touched = inside.flatten(1).any(1)
    assert 8 < touched.sum() < 32
    assert not torch.equal(erased[touched][:, :, 0], erased[touched][:, :, 1])
    monkeypatch.setattr("vistill.augment.erasing._DRAWS", 1)
    assert torch.equal(random_erasing(clips, SEEDS[:40], 0.5), erased)
