"""Noise, blurs and digital corruptions of ImageNet-C (Hendrycks and Dietterich, arXiv 1903.12261),
with the constants of its published code.

A corruption is a function of a picture `[h, w, 3]` in [0, 1] (float32), a severity from 1 to 5 and
a generator; the result may lie beyond [0, 1] and is cut by the caller. Lengths are in pixels of a
picture of 224.
"""

from io import BytesIO

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from vistill.data.corruptions import filters

Pixels = Float[np.ndarray, "h w 3"]


def gaussian_noise(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Normal noise."""
    scale = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return x + scale * rng.standard_normal(x.shape, dtype=np.float32)


def shot_noise(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """As many photons as a Poisson distribution gives."""
    photons = (60, 25, 12, 5, 3)[severity - 1]
    return (rng.poisson(x * photons) / photons).astype(np.float32)


def impulse_noise(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Values that are all or nothing, in each colour by itself."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    hit, salt = rng.random(x.shape) <= share, rng.random(x.shape) <= 0.5
    return np.where(hit, salt.astype(np.float32), x)


def speckle_noise(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Normal noise that grows with the value."""
    scale = (0.15, 0.2, 0.35, 0.45, 0.6)[severity - 1]
    return x + x * scale * rng.standard_normal(x.shape, dtype=np.float32)


def gaussian_blur(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Blurred evenly."""
    return filters.gaussian(x, (1, 2, 3, 4, 6)[severity - 1])


def glass_blur(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Pixels take the place of neighbours.

    The published code means to exchange two pixels, but its assignment of two views of one array
    copies the second over the first; so do we. As every pixel is written once a round, in order, it
    is a forest of pointers, whose roots are found by doubling.
    """
    settings = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
    sigma, most, rounds = settings[severity - 1]
    height, width = x.shape[:2]
    x = to_bytes(filters.gaussian(x, sigma)).astype(np.float32) / 255
    taken = np.arange(height * width)
    inside = taken.reshape(height, width)[most + 1 : height - most + 1, most + 1 : width - most + 1]
    for _ in range(rounds):
        down, right = rng.integers(-most, most, (2, *inside.shape))
        taken = taken[_copied(inside, inside + down * width + right, height * width)]
    x = x.reshape(-1, 3)[taken].reshape(x.shape)
    return filters.gaussian(x, sigma)


def _copied(
    places: Int[np.ndarray, "a b"], read: Int[np.ndarray, "a b"], count: int
) -> Int[np.ndarray, " n"]:
    """Where every pixel has come from, once `places` were overwritten from the last to the first,
    each with what then stood at `read`."""
    origin, follow = np.arange(count), np.arange(count)
    written = np.zeros(count, dtype=bool)
    written[places] = True
    origin[places] = read
    follow[places] = np.where(written[read] & (read > places), read, places)
    while not np.array_equal(follow, further := follow[follow]):
        follow = further
    return origin[follow]


def defocus_blur(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Every point a disk."""
    radius, alias = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
    return filters.correlate(x, filters.disk(radius, alias))


def motion_blur(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Moved along a line."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    return np.rint(255 * filters.motion(x, radius, sigma, rng.uniform(-45, 45))) / 255


def zoom_blur(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """The mean of many sizes."""
    stop, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[
        severity - 1
    ]
    factors = np.arange(1, stop, step)
    total = x.copy()
    for factor in factors:
        total += filters.zoomed(x, float(factor))
    return total / (len(factors) + 1)


def contrast(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Nearer to the mean of each colour."""
    mean = x.mean(axis=(0, 1), keepdims=True)
    return (x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1] + mean


def brightness(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """A higher value, in terms of hue, saturation and value."""
    hsv = filters.to_hsv(x)
    hsv[..., 2] = np.clip(hsv[..., 2] + (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1], 0, 1)
    return filters.from_hsv(hsv)


def saturate(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """A lower, then a higher saturation."""
    factor, more = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[severity - 1]
    hsv = filters.to_hsv(x)
    hsv[..., 1] = np.clip(hsv[..., 1] * factor + more, 0, 1)
    return filters.from_hsv(hsv)


def jpeg_compression(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Written and read as JPEG."""
    return as_jpeg(to_bytes(x), (25, 18, 15, 10, 7)[severity - 1]).astype(np.float32) / 255


def as_jpeg(pixels: Int[np.ndarray, "h w 3"], quality: int) -> Int[np.ndarray, "h w 3"]:
    """What JPEG keeps of bytes."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def pixelate(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Fewer, larger pixels."""
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    height, width = x.shape[:2]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    image = Image.fromarray(to_bytes(x)).resize(small, Image.Resampling.BOX)
    image = image.resize((width, height), Image.Resampling.BOX)
    return np.asarray(image).astype(np.float32) / 255


def elastic_transform(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Bent: by an affine map, and by smooth noise."""
    strength, sigma, affine = (
        (488, 170.8, 24.4),
        (488, 19.52, 48.8),
        (12.2, 2.44, 4.88),
        (17.08, 2.44, 4.88),
        (29.28, 2.44, 4.88),
    )[severity - 1]
    height, width = x.shape[:2]
    centre, side = np.array([width, height]) // 2, min(height, width) // 3
    corners = centre + side * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + rng.uniform(-affine, affine, corners.shape)
    rows, columns = np.mgrid[:height, :width].astype(float)
    back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners)
    places = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ back
    x = filters.sampled(x, places[..., 1], places[..., 0], "reflect")
    for axis in (columns, rows):
        noise = rng.uniform(-1, 1, (height, width))
        axis += strength * filters.gaussian(noise, sigma, "symmetric", truncate=3)
    return filters.sampled(x, rows, columns, "symmetric")


def to_bytes(x: Pixels) -> Int[np.ndarray, "h w 3"]:
    """Cut to whole values, as published, but for what float32 has lost."""
    return (np.clip(x, 0, 1) * 255 + 1e-3).astype(np.uint8)
