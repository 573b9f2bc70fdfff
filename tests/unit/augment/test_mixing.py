import pytest
import torch

from vistill.augment.mixing import Mix, apply_mix, beta_sample, draw_mix, smoothed_targets
from vistill.random import Stream, per_sample_uniform

SEEDS = torch.arange(4000) * 7919 + 13


def draws(**options) -> list[Mix]:
    return [draw_mix(SEEDS[i : i + 4], (20, 30), **options) for i in range(400)]


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 2.0])
def test_beta_has_its_moments(alpha):
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(3000, 2, 128, generator=generator, dtype=torch.float64)
    samples = torch.stack([beta_sample(alpha, u) for u in uniform])
    assert samples.mean() == pytest.approx(0.5, abs=0.03)
    assert samples.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
    assert samples.isfinite().all()


def test_draw_depends_on_the_first_seed_only():
    options = {"mixup": 0.8, "cutmix": 1.0}
    a, b = draw_mix(SEEDS[:4], (9, 9), **options), draw_mix(SEEDS[:1], (9, 9), **options)
    assert torch.equal(a.share, b.share)
    assert torch.equal(a.box, b.box)


def test_switch_and_probability():
    mixes = draws(mixup=0.8, cutmix=1.0, probability=0.5, switch_probability=0.25)
    blended = sum(bool(m.share < 1) for m in mixes)
    cut = sum(bool((m.box[1] - m.box[0]) * (m.box[3] - m.box[2]) > 0) for m in mixes)
    assert not any(m.share < 1 and (m.box[1] > m.box[0]) for m in mixes)
    assert blended == pytest.approx(150, abs=35)
    assert cut == pytest.approx(50, abs=20)


def test_only_cutmix_and_boxes_stay_inside():
    mixes = draws(mixup=0.0, cutmix=1.0)
    boxes = torch.stack([m.box for m in mixes])
    assert all(m.share == 1 for m in mixes)
    assert (boxes >= 0).all()
    assert (boxes[:, :2] <= 20).all()
    assert (boxes[:, 2:] <= 30).all()
    # E[λ] of Beta(1, 1) is ½; clipping at the border makes boxes smaller.
    area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2]) / 600
    assert 0.2 < area.mean() < 0.45


def test_no_mixing_changes_nothing():
    pixels, targets = torch.rand(4, 3, 6, 6), torch.rand(4, 5)
    mix = draw_mix(SEEDS[:4], (6, 6), mixup=0.8, cutmix=1.0, probability=0.0)
    mixed, same = apply_mix(pixels, targets, mix)
    assert torch.equal(mixed, pixels)
    torch.testing.assert_close(same, targets)


def test_targets_sum_to_one():
    targets = smoothed_targets(torch.tensor([0, 2]), 4, 0.1)
    torch.testing.assert_close(targets.sum(1), torch.ones(2))
    assert targets[0, 0] == pytest.approx(0.925)
    assert targets[0, 1] == pytest.approx(0.025)


def test_labels_have_the_share_of_the_pixels():
    """Each picture is one grey level, so that the mean pixel tells what is left of it."""
    pixels = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 20, 30)
    targets = torch.eye(4)
    kinds = {"mixup": (0.8, 0.0), "cutmix": (0.0, 1.0), "both": (0.8, 1.0)}
    for mixup, cutmix in kinds.values():
        for i in range(40):
            mix = draw_mix(SEEDS[i : i + 4], (20, 30), mixup=mixup, cutmix=cutmix)
            mixed, wanted = apply_mix(pixels, targets, mix)
            torch.testing.assert_close(wanted @ torch.arange(4.0), mixed.mean((1, 2, 3)))


def test_a_box_has_sides_by_the_root_of_its_area():
    """Beta's mean is a half: without the border, boxes would cover half of the picture."""
    mixes = [draw_mix(SEEDS[i : i + 1], (200, 100), mixup=0, cutmix=1.0) for i in range(300)]
    boxes = torch.stack([m.box for m in mixes]).double()
    inner = boxes[(boxes[:, [0, 2]] > 0).all(1) & (boxes[:, 1] < 200) & (boxes[:, 3] < 100)]
    tall, wide = inner[:, 1] - inner[:, 0], inner[:, 3] - inner[:, 2]
    torch.testing.assert_close(tall, 2 * wide, atol=4.0, rtol=0)
    draws = per_sample_uniform(SEEDS[:300], 4 + 4 * 128, Stream.MIXING).double()
    for i in range(50):
        cut = float(beta_sample(1.0, draws[i, 4:].view(2, 2, 128)[1]))
        top, bottom, left, right = boxes[i].tolist()
        if top > 0 and bottom < 200 and left > 0 and right < 100:
            area = (bottom - top) * (right - left) / 20000
            assert area == pytest.approx(1 - cut, abs=0.05)
