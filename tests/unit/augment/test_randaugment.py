"""RandAugment against timm's, operation by operation, and in tens of thousands of draws."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment

from vistill.augment.randaugment import FILL, NAMES, RandAugment, augment
from vistill.errors import UserError

USUAL = "rand-m9-mstd0.5-inc1"
CHANGED_BY_INC = {"Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness"}


def picture(side: int = 32) -> Image.Image:
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 200, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.BICUBIC)


@pytest.mark.parametrize("increasing", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_operations_are_timms(name: str, increasing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs_name = f"{name}Increasing" if increasing and name in CHANGED_BY_INC else name
    params = {"interpolation": Image.BICUBIC, "img_mean": FILL}
    for sign, draw in ((-1.0, 0.9), (1.0, 0.1)):
        monkeypatch.setattr(random, "random", lambda draw=draw: draw)
        for magnitude in (0.0, 2.5, 7.3, 9.0, 9.9, 10.0):
            if name == "Posterize" and magnitude in (0.0, 10.0):
                continue  # zero bits in one of the directions
            op = auto_augment.AugmentOp(theirs_name, 1.0, magnitude, params)
            ours = augment(picture(), name, magnitude, sign, increasing=increasing)
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(op(picture())))


def test_the_same_operations() -> None:
    theirs = auto_augment._RAND_INCREASING_TRANSFORMS
    assert [name.removesuffix("Increasing") for name in theirs] == NAMES


@pytest.mark.parametrize(("magnitude", "increasing"), [(10.0, True), (0.0, False), (2.0, False)])
def test_posterize_keeps_a_bit(magnitude: float, increasing: bool) -> None:
    out = np.asarray(augment(picture(), "Posterize", magnitude, 1.0, increasing=increasing))
    assert set(np.unique(out)) == {0, 128}


@pytest.mark.slow
def test_tens_of_thousands_of_draws() -> None:
    image = torch.from_numpy(np.asarray(picture(4)).copy()).permute(2, 0, 1)
    transform = RandAugment(USUAL)
    rng = np.random.default_rng(0)
    changed = 0
    for _ in range(30_000):
        out = transform(image, rng)
        changed += not torch.equal(out, image)
    assert out.shape == image.shape
    assert out.stride() == image.stride()
    assert 0.6 < changed / 30_000 < 0.76  # 1 - 0.5², less what changes nothing


def test_magnitudes() -> None:
    rng = np.random.default_rng(0)
    draws = np.array([RandAugment(USUAL).draw_magnitude(rng) for _ in range(20_000)])
    assert draws.max() == 10.0
    assert 0.015 < (draws == 10.0).mean() < 0.031  # two standard deviations above 9
    assert draws.mean() == pytest.approx(9.0, abs=0.02)
    fixed = RandAugment("rand-m7-n3-p0.2")
    assert (fixed.count, fixed.probability, fixed.increasing) == (3, 0.2, False)
    assert fixed.draw_magnitude(rng) == 7.0
    uniform = RandAugment("rand-m8-mstd101")
    assert np.mean([uniform.draw_magnitude(rng) for _ in range(2000)]) == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize("notation", ["rand-m9-x3", "rand-m", "augmix-m3", "rand-m9-mstd-0.5"])
def test_unknown_notation(notation: str) -> None:
    with pytest.raises(UserError, match="RandAugment"):
        RandAugment(notation)
