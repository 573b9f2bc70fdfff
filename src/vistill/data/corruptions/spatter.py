"""Spatter of ImageNet-C: drops of water on the lens (severities 1 to 3), and mud.

The light on the drops comes from the distance to their outline, found by Canny's edges; both are
OpenCV's in the published code, and are computed here as it does.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from vistill.data.corruptions import filters
from vistill.data.corruptions.degradations import Pixels

_WATER, _MUD = (175, 238, 238), (63, 42, 20)
_FARTHEST = 20
_STEPS = tuple(
    (down, right, 1.0 if 0 in (down, right) else 1.4 if abs(down * right) == 1 else 2.1969)
    for down in range(-2, 3)
    for right in range(-2, 3)
    if (abs(down), abs(right)) in {(0, 1), (1, 0), (1, 1), (1, 2), (2, 1)}
)
"""Lengths of steps to neighbours, for OpenCV's distances by a mask of 5 × 5."""


def spatter(x: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Drops on the lens."""
    mean, spread, sigma, least, strength, mud = (
        (0.65, 0.3, 4, 0.69, 0.6, False),
        (0.65, 0.3, 3, 0.68, 0.6, False),
        (0.65, 0.3, 2, 0.68, 0.5, False),
        (0.65, 0.3, 1, 0.65, 1.5, True),
        (0.67, 0.4, 1, 0.65, 1.5, True),
    )[severity - 1]
    liquid = mean + spread * rng.standard_normal(x.shape[:2], dtype=np.float32)
    liquid = filters.gaussian(liquid, sigma)
    if mud:
        cover = filters.gaussian((liquid > least).astype(np.float32), strength)
        cover = np.where(cover < 0.8, 0, cover)[..., None]
        return x * (1 - cover) + cover * np.array(_MUD, dtype=np.float32) / 255
    liquid = (np.where(liquid < least, 0, liquid) * 255).astype(np.uint8)
    shine = liquid * _lit(_distances(edges(liquid, 50, 150)))
    if shine.max() == 0:
        return x
    shine = (strength * shine / shine.max())[..., None]
    return x + shine.astype(np.float32) * np.array(_WATER, dtype=np.float32) / 255


def _shifted(values: np.ndarray, down: int, right: int, outside: float) -> np.ndarray:
    """`values` so many pixels further down and to the right."""
    height, width = values.shape
    padded = np.pad(values, 2, constant_values=outside)
    return padded[2 + down : 2 + down + height, 2 + right : 2 + right + width]


def edges(image: UInt8[np.ndarray, "h w"], low: int, high: int) -> Bool[np.ndarray, "h w"]:
    """Canny's edges, with a magnitude that is the sum of both slopes."""
    padded = np.pad(image.astype(np.int64), 1, mode="edge")
    smooth = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    across = smooth[:, 2:] - smooth[:, :-2]
    smooth = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    down = smooth[2:] - smooth[:-2]
    size = np.abs(across) + np.abs(down)
    tangent = 13573 * np.abs(across)  # of 22.5 degrees, in 2^-15
    flat = np.abs(down) << 15 < tangent
    steep = np.abs(down) << 15 > tangent + (np.abs(across) << 16)

    def beside(rows: int, columns: int) -> Int[np.ndarray, "h w"]:
        return _shifted(size, rows, columns, 0)

    falling = (across ^ down) >= 0
    slanted = np.where(
        falling,
        (size > beside(-1, -1)) & (size > beside(1, 1)),
        (size > beside(-1, 1)) & (size > beside(1, -1)),
    )
    level = (size > beside(0, -1)) & (size >= beside(0, 1))
    upright = (size > beside(-1, 0)) & (size >= beside(1, 0))
    weak = (size > low) & np.where(flat, level, np.where(steep, upright, slanted))
    found = weak & (size > high)
    while True:
        near = np.pad(found, 1)
        near = near[:-2] | near[1:-1] | near[2:]
        grown = (near[:, :-2] | near[:, 1:-1] | near[:, 2:]) & weak
        if np.array_equal(grown, found):
            return found
        found = grown


def _distances(outline: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Of every pixel to the outline, at most `_FARTHEST`."""
    found = np.where(outline, 0.0, _FARTHEST).astype(np.float32)
    for _ in range(_FARTHEST):
        nearer = found
        for down, right, cost in _STEPS:
            nearer = np.minimum(nearer, _shifted(found, down, right, _FARTHEST) + cost)
        if np.array_equal(nearer, found):
            break
        found = nearer
    return found


def _lit(distance: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Light on a surface as high as its distance to the outline, from one side."""
    height = _boxed(distance).astype(np.int64)
    counts = np.bincount(height.ravel(), minlength=256)
    first, total = int(np.flatnonzero(counts)[0]), height.size
    if counts[first] < total:  # spread over all values, each as often as the next
        above = np.cumsum(counts) - np.cumsum(counts)[first]
        table = np.rint(255 / (total - counts[first]) * np.maximum(above, 0))
        height = table[height]
    kernel = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    lit = np.clip(np.rint(filters.correlate(height.astype(np.float32), kernel)), 0, 255)
    return np.rint(_boxed(lit))


def _boxed(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Means of 3 × 3, rounded as OpenCV does: distances are cut to whole numbers next."""
    padded = np.pad(values.astype(np.float64), 1, mode="reflect")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return ((rows[:-2] + rows[1:-1] + rows[2:]) * (1 / 9)).astype(np.float32)
