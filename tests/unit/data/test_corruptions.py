"""Corruptions of ImageNet-C against its published code, and what holds for all of them."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from vistill.config.robustness import COMMON, EXTRA
from vistill.data.corrupted import frost_photographs
from vistill.data.corruptions import CORRUPTIONS, corrupt, filters
from vistill.data.corruptions.degradations import _copied
from vistill.data.corruptions.spatter import edges
from vistill.data.corruptions.weather import plasma

PUBLISHED = {
    "gaussian_noise": (
        (115.64, 95.89),
        (116.00, 94.83),
        (116.54, 94.16),
        (117.35, 94.26),
        (118.59, 96.57),
    ),
    "shot_noise": (
        (112.25, 97.32),
        (110.18, 97.00),
        (107.72, 97.52),
        (102.04, 99.79),
        (97.63, 103.27),
    ),
    "defocus_blur": (
        (114.52, 97.75),
        (114.53, 97.38),
        (114.53, 96.57),
        (115.85, 96.64),
        (115.67, 95.44),
    ),
    "motion_blur": (
        (115.72, 98.32),
        (116.31, 97.90),
        (117.24, 97.12),
        (117.22, 95.23),
        (118.74, 95.74),
    ),
    "zoom_blur": (
        (117.25, 96.83),
        (118.22, 96.04),
        (119.25, 94.79),
        (120.21, 93.90),
        (121.55, 92.19),
    ),
    "snow": ((156.72, 80.93), (182.95, 68.11), (182.18, 69.12), (192.65, 65.13), (212.07, 51.17)),
    "fog": ((125.47, 45.35), (144.91, 39.56), (122.00, 47.64), (136.46, 46.91), (117.54, 41.85)),
    "brightness": (
        (121.09, 101.94),
        (125.43, 103.59),
        (128.41, 104.57),
        (130.64, 105.30),
        (132.20, 105.80),
    ),
    "contrast": (
        (114.46, 46.04),
        (114.51, 38.49),
        (114.52, 31.98),
        (114.44, 27.34),
        (114.54, 25.99),
    ),
    "elastic_transform": (
        (117.99, 100.41),
        (118.93, 98.16),
        (113.11, 98.93),
        (113.74, 98.21),
        (114.61, 98.80),
    ),
    "pixelate": (
        (115.22, 98.77),
        (115.28, 98.74),
        (115.10, 98.52),
        (115.06, 98.37),
        (115.17, 98.21),
    ),
    "jpeg_compression": (
        (115.34, 97.37),
        (115.41, 96.90),
        (115.19, 96.79),
        (115.43, 96.52),
        (115.87, 95.88),
    ),
    "speckle_noise": (
        (111.85, 96.74),
        (110.47, 96.23),
        (106.20, 96.30),
        (103.11, 97.15),
        (99.20, 99.08),
    ),
    "gaussian_blur": (
        (114.66, 98.25),
        (114.64, 97.56),
        (114.61, 96.75),
        (114.59, 95.85),
        (114.53, 93.78),
    ),
    "spatter": (
        (115.36, 98.81),
        (118.89, 98.40),
        (121.43, 97.71),
        (107.23, 95.49),
        (102.23, 92.76),
    ),
    "saturate": (
        (181.32, 62.93),
        (200.37, 61.86),
        (103.92, 101.65),
        (101.49, 102.52),
        (101.49, 102.52),
    ),
}
"""Mean and standard deviation by severity of what the published functions make of `picture()`, with
the draws of `RandomState(severity)`: imagecorruptions 1.1.2, mended for scikit-image 0.26 and numpy
2.4, with the zoom and the elastic transform of the benchmark, SciPy 1.17, OpenCV 5.0."""


class Legacy:
    """Draws as numpy's old global state gave them."""

    def __init__(self, seed: int) -> None:
        self.state = np.random.RandomState(seed)

    def uniform(self, *args):
        return self.state.uniform(*args)

    def standard_normal(self, shape, dtype):
        return self.state.normal(size=shape).astype(dtype)

    def poisson(self, mean):
        return self.state.poisson(mean)


def picture() -> np.ndarray:
    y, x = np.mgrid[:224, :224] / 223
    red, green = 255 * x, 127.5 * (1 + np.sin(12 * x * y + 5 * y))
    return np.stack([red, green, 255 * ((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.1)], -1).astype("uint8")


@pytest.mark.parametrize("name", PUBLISHED)
def test_statistics_are_those_of_the_published_code(name):
    for severity, (mean, deviation) in enumerate(PUBLISHED[name], 1):
        found = corrupt(picture(), name, severity, Legacy(severity))
        near = 0.3 if name in ("defocus_blur", "contrast") else 0.15  # cut to bytes at whole values
        assert found.mean() == pytest.approx(mean, abs=near)
        assert found.std() == pytest.approx(deviation, abs=near)


def test_the_settings_name_all_corruptions_in_their_order():
    assert tuple(CORRUPTIONS) == COMMON + EXTRA


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(48, 72), (7, 3), (2, 2)])
def test_any_shape_and_the_same_draws_the_same_picture(name, shape):
    image = np.random.default_rng(3).integers(0, 256, (*shape, 3)).astype(np.uint8)
    before = image.copy()
    for severity in (1, 5):
        first, again = (corrupt(image, name, severity, np.random.default_rng(5)) for _ in range(2))
        assert first.shape == image.shape
        assert first.dtype == np.uint8
        np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", sorted({*CORRUPTIONS} - {"elastic_transform", "saturate"}))
def test_a_higher_severity_harms_more(name):
    image = picture()[::2, ::2]
    harm = []
    for severity in (1, 3, 5):
        found = corrupt(image, name, severity, np.random.default_rng(0))
        harm.append(np.abs(found.astype(float) - image).mean())
    assert 0 < harm[0] < harm[2]
    assert harm[1] < harm[2] + 1


def test_impulses_are_all_or_nothing_at_the_published_rates():
    image = np.full((200, 200, 3), 100, dtype=np.uint8)
    for severity, rate in enumerate((0.03, 0.06, 0.09, 0.17, 0.27), 1):
        found = corrupt(image, "impulse_noise", severity, np.random.default_rng(1))
        assert set(np.unique(found)) == {0, 100, 255}
        assert (found != 100).mean() == pytest.approx(rate, abs=0.005)
        assert (found == 255).mean() == pytest.approx(rate / 2, abs=0.005)


def test_glass_copies_pixels_one_after_the_other():
    rng = np.random.default_rng(0)
    height, width, most = 13, 11, 3
    rows = np.arange(most + 1, height - most + 1)
    columns = np.arange(most + 1, width - most + 1)
    down, right = rng.integers(-most, most, (2, len(rows), len(columns)))
    expected = np.arange(height * width).reshape(height, width)
    for i in reversed(range(len(rows))):  # as published: from the last pixel to the first
        for j in reversed(range(len(columns))):
            h, w = rows[i], columns[j]
            expected[h, w] = expected[h + down[i, j], w + right[i, j]]
    places = rows[:, None] * width + columns
    found = _copied(places, places + down * width + right, height * width)
    np.testing.assert_array_equal(found, expected.ravel())


@pytest.mark.parametrize("edge", ["nearest", "symmetric", "reflect"])
def test_a_blur_is_the_sum_of_neighbours(edge):
    image = np.random.default_rng(0).random((9, 6, 2)).astype(np.float32)
    offsets = np.arange(-6, 7)
    taps = np.exp(-0.5 * (offsets / 1.5) ** 2)
    taps /= taps.sum()
    mode = {"nearest": "edge"}.get(edge, edge)
    padded = np.pad(image, ((6, 6), (6, 6), (0, 0)), mode=mode)
    rows = sum(tap * padded[i : i + 9] for i, tap in enumerate(taps))
    expected = sum(tap * rows[:, i : i + 6] for i, tap in enumerate(taps))
    np.testing.assert_allclose(filters.gaussian(image, 1.5, edge), expected, atol=1e-6)
    kernel = np.outer(taps, taps)
    np.testing.assert_allclose(filters.correlate(image, kernel, edge), expected, atol=1e-6)
    plane = filters.gaussian(image[..., 0], 1.5, edge)
    np.testing.assert_allclose(plane, expected[..., 0], atol=1e-6)


def test_hue_saturation_and_value_go_there_and_back():
    image = np.random.default_rng(0).random((20, 20, 3)).astype(np.float32)
    image[0] = image[0, :, :1]  # greys
    image[1, 0] = 0
    np.testing.assert_allclose(filters.from_hsv(filters.to_hsv(image)), image, atol=1e-6)
    colours = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.25, 0.25]]], dtype=np.float32)
    found = filters.to_hsv(colours)[0]
    np.testing.assert_allclose(found[:3], [[0, 1, 1], [1 / 3, 1, 1], [2 / 3, 1, 1]], atol=1e-6)
    np.testing.assert_allclose(found[3], [0, 0.5, 0.5], atol=1e-6)


def test_an_edge_is_one_pixel_wide():
    image = np.zeros((12, 12), dtype=np.uint8)
    image[:, 6:] = 200
    assert edges(image, 50, 150).sum(axis=1).tolist() == [1] * 12
    assert not edges(image // 20, 50, 150).any()


def test_clouds_fill_their_range():
    clouds = plasma(5, 2.0, np.random.default_rng(0))
    assert clouds.shape == (8, 8)
    assert (clouds.min(), clouds.max()) == (0, 1)


def test_frost_is_laid_over_photographs(tmp_path, monkeypatch):
    for n, value in enumerate((40, 200)):
        Image.new("RGB", (30, 10), (value,) * 3).save(tmp_path / f"frost{n}.png")
    (tmp_path / "readme.txt").write_text("no photograph")
    found = frost_photographs(str(tmp_path))
    assert found.place == tmp_path
    assert [one.shape for one in found.pictures] == [(10, 30, 3)] * 2
    image = np.full((20, 20, 3), 100, dtype=np.uint8)
    made = {
        int(corrupt(image, "frost", 2, np.random.default_rng(n), found.pictures)[0, 0, 0])
        for n in range(9)
    }
    assert made == {80 + 24, 80 + 120}
    drawn = [corrupt(image, "frost", 2, np.random.default_rng(n)) for n in range(2)]
    assert len({hashlib.sha256(one).hexdigest() for one in drawn}) == 2
    # A package that brings the published ones along is not imported, and its sixth is never drawn.
    package = tmp_path / "imagecorruptions" / "frost"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("raise ImportError('numpy.float_')")
    for n in range(1, 7):
        Image.new("RGB", (n, 4)).save(package / f"frost{n}.png")
    monkeypatch.syspath_prepend(tmp_path)
    assert [one.shape[1] for one in frost_photographs(None).pictures] == [1, 2, 3, 4, 5]
