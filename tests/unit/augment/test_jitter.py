"""The batched jitter equals Pillow's enhancers, picture by picture."""

from itertools import permutations

import numpy as np
import torch
from PIL import Image, ImageEnhance

from vistill.augment import jitter
from vistill.augment.jitter import apply_color_jitter, color_jitter
from vistill.augment.lighting import apply_lighting, lighting_draws
from vistill.batch import Batch
from vistill.config.methods import KDEPConfig
from vistill.methods.recoloured_view import recoloured

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


def test_the_host_computes_what_devices_compute():
    """Of pictures and clips, levels between whole ones included."""
    generator = torch.Generator().manual_seed(0)
    for size in ((13, 17), (3 * 13, 17)):
        pixels = torch.rand(24, 3, *size, generator=generator)
        draws = jitter.jitter_draws(torch.arange(24), (0.9, 1.5, 0.4))
        assert {tuple(order) for order in draws[1].tolist()} == set(permutations(range(3)))
        assert torch.equal(jitter._on_host(pixels, *draws), jitter._batched(pixels, *draws))
        assert torch.equal(apply_color_jitter(pixels, *draws), jitter._batched(pixels, *draws))


def test_kdeps_colours_on_the_host_are_those_of_devices():
    generator = torch.Generator().manual_seed(0)
    seeds = torch.arange(9)
    for shape in ((9, 3, 12, 10), (9, 3, 4, 12, 10)):
        pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        found = recoloured(KDEPConfig(), Batch(pixels, seeds=seeds, ids=seeds))
        draws = jitter.jitter_draws(seeds, KDEPConfig().color_jitter)
        look = jitter._batched((pixels / 255).flatten(2, -2), *draws)
        look = apply_lighting(look, lighting_draws(seeds, KDEPConfig().lighting_std)).clamp(0, 1)
        assert torch.allclose(found, look.reshape(shape), atol=1e-6)
        plain = KDEPConfig(color_jitter=None, lighting_std=0)
        unit = recoloured(plain, Batch(pixels / 255, seeds=seeds, ids=seeds))
        assert torch.equal(unit, pixels / 255)
