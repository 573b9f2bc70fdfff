"""Blurs, zooms and colour spaces of the corruptions, as scikit-image, SciPy, OpenCV and ImageMagick
compute them, on numpy arrays alone: loader processes stay light.

A picture is `[h, w]` or `[h, w, c]` in float32.
"""

import math
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

Edge = Literal["nearest", "symmetric", "reflect"]
"""Beyond the border: `aaa|abcd|ddd`, `cba|abcd|dcb` (SciPy's reflect), `dcb|abcd|cba`."""
Picture = Float[np.ndarray, "h w *c"]


def folded(index: Int[np.ndarray, "*n"], size: int, edge: Edge) -> Int[np.ndarray, "*n"]:
    """Positions inside of `size` that stand for positions outside."""
    if edge == "nearest" or size == 1:
        return np.clip(index, 0, size - 1)
    if edge == "symmetric":
        index = np.mod(index, 2 * size)
        return np.where(index < size, index, 2 * size - 1 - index)
    index = np.mod(index, 2 * size - 2)
    return np.where(index < size, index, 2 * size - 2 - index)


@lru_cache(maxsize=64)
def _blurring(size: int, sigma: float, edge: Edge, truncate: float) -> Float[np.ndarray, "n n"]:
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    rows = np.arange(size)[:, None]
    matrix = np.zeros((size, size))
    columns = folded(rows + offsets, size, edge)
    np.add.at(matrix, (np.broadcast_to(rows, columns.shape), columns), taps / taps.sum())
    return matrix.astype(np.float32)


def gaussian(
    image: Picture, sigma: float, edge: Edge = "nearest", truncate: float = 4.0
) -> Picture:
    """A Gaussian blur cut off after `truncate` standard deviations.

    It is two products of matrices, whatever sigma.
    """
    height, width = image.shape[:2]
    image = np.asarray(image, dtype=np.float32)
    down = _blurring(height, sigma, edge, truncate) @ image.reshape(height, -1)
    across = _blurring(width, sigma, edge, truncate) @ down.reshape(height, width, -1)
    return across.reshape(image.shape)


def correlate(image: Picture, kernel: Float[np.ndarray, "k l"], edge: Edge = "reflect") -> Picture:
    """The sum of neighbours with the weights of a kernel of odd sides, by Fourier transforms."""
    height, width = image.shape[:2]
    tall, wide = kernel.shape
    rows = folded(np.arange(-(tall // 2), height + tall // 2), height, edge)
    columns = folded(np.arange(-(wide // 2), width + wide // 2), width, edge)
    padded = image[rows][:, columns]
    size = padded.shape[:2]
    response = np.conj(np.fft.rfft2(kernel, s=size))
    response = response.reshape(*response.shape, *(1,) * (image.ndim - 2))
    found = np.fft.irfft2(np.fft.rfft2(padded, axes=(0, 1)) * response, s=size, axes=(0, 1))
    return found[:height, :width].astype(np.float32)


def disk(radius: int, alias_blur: float) -> Float[np.ndarray, "k k"]:
    """A disk of sum 1 with soft edges."""
    half, side = (8, 3) if radius <= 8 else (radius, 5)
    line = np.arange(-half, half + 1)
    found = (line[:, None] ** 2 + line[None] ** 2 <= radius**2).astype(np.float32)
    taps = np.exp(-0.5 * (np.arange(-(side // 2), side // 2 + 1) / alias_blur) ** 2)
    taps /= taps.sum()
    return correlate(found / found.sum(), np.outer(taps, taps))


def motion(image: Picture, radius: int, sigma: float, angle: float) -> Picture:
    """ImageMagick's motion blur: one half of a Gaussian, along `angle` degrees, in whole pixels."""
    height, width = image.shape[:2]
    count = 2 * radius + 1
    taps = np.exp(-0.5 * (np.arange(count) / sigma) ** 2)
    taps /= taps.sum()
    down, right = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    padding = ((count, count), (count, count), *((0, 0),) * (image.ndim - 2))
    padded = np.pad(image, padding, mode="edge")
    found = np.zeros_like(image, dtype=np.float32)
    for i, tap in enumerate(taps.astype(np.float32)):
        top, left = count + math.ceil(i * down - 0.5), count + math.ceil(i * right - 0.5)
        found += tap * padded[top : top + height, left : left + width]
    return found


def zoomed(image: Picture, factor: float) -> Picture:
    """The middle of a picture, enlarged linearly to the size of the whole."""
    for axis in (0, 1):
        size = image.shape[axis]
        kept = math.ceil(size / factor)
        made = round(kept * factor)
        places = np.arange(size) + (made - size) // 2
        places = places * ((kept - 1) / max(made - 1, 1)) + (size - kept) // 2
        low = np.minimum(places.astype(np.int64), size - 1)
        share = (places - low).astype(np.float32)
        share = share.reshape(-1, *(1,) * (image.ndim - 1 - axis))
        high = np.minimum(low + 1, size - 1)
        before, after = np.take(image, low, axis), np.take(image, high, axis)
        image = before + (after - before) * share
    return image


def sampled(
    image: Float[np.ndarray, "h w c"],
    rows: Float[np.ndarray, "a b"],
    columns: Float[np.ndarray, "a b"],
    edge: Edge,
) -> Float[np.ndarray, "a b c"]:
    """A picture read between its pixels, linearly."""
    height, width = image.shape[:2]
    top, left = np.floor(rows), np.floor(columns)
    down = (rows - top).astype(np.float32)[..., None]
    right = (columns - left).astype(np.float32)[..., None]
    found = []
    for step in (0, 1):
        row = folded(top.astype(np.int64) + step, height, edge)
        a = image[row, folded(left.astype(np.int64), width, edge)]
        b = image[row, folded(left.astype(np.int64) + 1, width, edge)]
        found.append(a + (b - a) * right)
    return found[0] + (found[1] - found[0]) * down


def grey(image: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 1"]:
    """Luma of Rec. 601."""
    return image @ np.array([[0.299], [0.587], [0.114]], dtype=np.float32)


def to_hsv(image: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """Hue, saturation and value, each in [0, 1], of red, green and blue in [0, 1]."""
    red, green, blue = np.moveaxis(image, -1, 0)
    value = image.max(axis=-1)
    spread = value - image.min(axis=-1)
    safe = np.where(spread > 0, spread, 1)
    hue = np.select(
        [value == red, value == green],
        [(green - blue) / safe, 2 + (blue - red) / safe],
        4 + (red - green) / safe,
    )
    hue = np.where(spread > 0, np.mod(hue / 6, 1), 0)
    saturation = np.where(value > 0, spread / np.where(value > 0, value, 1), 0)
    return np.stack([hue, saturation, value], axis=-1)


def from_hsv(image: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """The inverse of `to_hsv`."""
    hue, saturation, value = np.moveaxis(image, -1, 0)
    place = np.mod(np.array([5, 3, 1], dtype=np.float32) + 6 * hue[..., None], 6)
    less = np.clip(np.minimum(place, 4 - place), 0, 1)
    return value[..., None] * (1 - saturation[..., None] * less)
