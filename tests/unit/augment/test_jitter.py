"""The batched jitter equals Pillow's enhancers, picture by picture."""

import numpy as np
import torch
from PIL import Image, ImageEnhance

from vistill.augment.jitter import apply_color_jitter, color_jitter

ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def test_equals_pillow():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (6, 9, 11, 3), dtype=np.uint8)
    factors = rng.uniform(0.6, 1.4, (6, 3)).astype(np.float32)
    orders = np.array([rng.permutation(3) for _ in range(6)])
    expected = []
    for picture, factor, order in zip(pictures, factors, orders, strict=True):
        image = Image.fromarray(picture)
        for operation in order:
            image = ENHANCERS[operation](image).enhance(float(factor[operation]))
        expected.append(np.asarray(image))
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    found = apply_color_jitter(pixels, torch.from_numpy(factors), torch.from_numpy(orders))
    levels = (found * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(levels, np.stack(expected))


def test_draws_differ_between_samples_and_repeat_for_a_seed():
    pixels = torch.rand(1, 3, 8, 8).expand(4, -1, -1, -1)
    first = color_jitter(pixels, torch.arange(4), (0.4, 0.4, 0.4))
    assert torch.equal(first, color_jitter(pixels, torch.arange(4), (0.4, 0.4, 0.4)))
    assert len({tuple(row.flatten().tolist()) for row in first}) == 4
