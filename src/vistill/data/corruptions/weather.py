"""Weather of ImageNet-C: fog, frost, snow and spatter; see `degradations` for what a corruption is.

Frost is laid over photographs, which the benchmark brings along and we do not; without them it is
drawn.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from vistill.data.corruptions import filters
from vistill.data.corruptions.degradations import Pixels


def fog(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Bright clouds in front of it."""
    thick, decay = ((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[severity - 1]
    brightest = x.max()
    clouds = plasma(max(x.shape[:2]), decay, rng)[: x.shape[0], : x.shape[1], None]
    return (x + thick * clouds) * (brightest / (brightest + thick))


def plasma(side: int, decay: float, rng: np.random.Generator) -> Float[np.ndarray, "n n"]:
    """Clouds in [0, 1] by the diamond-square algorithm, on a torus of the next power of two."""
    size = 1 << max(side - 1, 1).bit_length()
    found = np.zeros((size, size))
    step, wobble = size, 100.0

    def moved(total: Float[np.ndarray, "a a"]) -> Float[np.ndarray, "a a"]:
        return total / 4 + wobble * rng.uniform(-wobble, wobble, total.shape)

    while step >= 2:
        half = step // 2
        corners = found[::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=0)
        found[half::step, half::step] = moved(pairs + np.roll(pairs, -1, axis=1))
        middles = found[half::step, half::step]
        beside = middles + np.roll(middles, 1, axis=0)
        found[::step, half::step] = moved(beside + corners + np.roll(corners, -1, axis=1))
        beside = middles + np.roll(middles, 1, axis=1)
        found[half::step, ::step] = moved(beside + corners + np.roll(corners, -1, axis=0))
        step, wobble = half, wobble / decay
    found -= found.min()
    return (found / found.max()).astype(np.float32)


def snow(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Falling flakes before a paler picture."""
    mean, spread, zoom, least, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity - 1]
    flakes = mean + spread * rng.standard_normal(x.shape[:2], dtype=np.float32)
    flakes = filters.zoomed(flakes, zoom)
    flakes = np.floor(255 * np.clip(np.where(flakes < least, 0, flakes), 0, 1))
    flakes = np.rint(filters.motion(flakes, radius, sigma, rng.uniform(-135, -45)))[..., None] / 255
    pale = np.maximum(x, filters.grey(x) * 1.5 + 0.5)
    return kept * x + (1 - kept) * pale + flakes + flakes[::-1, ::-1]


def frost(
    x: Pixels,
    severity: int,
    rng: np.random.Generator,
    photographs: Sequence[UInt8[np.ndarray, "a b 3"]] = (),
) -> Pixels:
    """Ice on the window."""
    kept, ice = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity - 1]
    height, width = x.shape[:2]
    if not photographs:
        return kept * x + ice * _drawn_frost(height, width, rng)
    photograph = _covering(photographs[int(rng.integers(len(photographs)))], height, width)
    top, left = (
        rng.integers(max(1, there - wanted))
        for there, wanted in zip(photograph.shape[:2], (height, width), strict=True)
    )
    crop = photograph[top : top + height, left : left + width]
    return kept * x + np.float32(ice / 255) * crop


def _covering(
    photograph: UInt8[np.ndarray, "a b 3"], height: int, width: int
) -> UInt8[np.ndarray, "h w 3"]:
    """A photograph, enlarged where it is smaller than a picture."""
    own = photograph.shape[:2]
    factor = max(height / own[0], width / own[1])
    if factor <= 1:
        return photograph
    larger = (-int(-own[1] * factor // 1), -int(-own[0] * factor // 1))
    return np.asarray(Image.fromarray(photograph).resize(larger, Image.Resampling.BICUBIC))


def _drawn_frost(height: int, width: int, rng: np.random.Generator) -> Pixels:
    """Pale crystals, the ridges of clouds, with the mean colour and the contrast of the published
    photographs."""
    side = max(height, width)
    ridges = [1 - np.abs(2 * plasma(side, decay, rng) - 1) for decay in (1.8, 1.5)]
    ice = (ridges[0] ** 3 + 0.5 * ridges[1] ** 6 + plasma(side, 2.2, rng))[:height, :width, None]
    ice = (ice - ice.mean()) / max(float(ice.std()), 1e-6)
    return np.clip(0.13 * ice + np.array([0.57, 0.65, 0.70], dtype=np.float32), 0, 1)
