"""Small pictures of what a model reads: crops as rectangles, hidden patches in grey, attention as
light."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

SIDE = 160
"""Longest side of a picture that was read; of one beside others, and of frames of a clip."""
VIEW = 120
FRAME = 104
_GAP = 3
_QUALITY = 80
_EDGE = (255, 70, 40)
_GREY = (128, 128, 128)
_SHADE = 0.88
"""Share of grey in what is hidden: what was there can be guessed."""
_DARK = 0.15

Pixels = UInt8[np.ndarray, "h w 3"]


def boxed(picture: Pixels, box: tuple[int, int, int, int], side: int = SIDE) -> Image.Image:
    """A picture, small, with a rectangle (top, left, height, width, in its own pixels)."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    longest = max(image.size)
    scale = min(side / longest, max(1.0, min(side, VIEW) / longest))
    small = _sized(image, scale)
    top, left, height, width = (scale * number for number in box)
    right, bottom = (min(a, b - 1) for a, b in zip((left + width, top + height), small.size,
                                                   strict=True))  # fmt: skip
    corners = round(left), round(top), max(round(right), round(left)), max(round(bottom),
                                                                           round(top))  # fmt: skip
    ImageDraw.Draw(small).rectangle(corners, outline=_EDGE, width=2)
    return small


def masked(
    view: Pixels, visible: Bool[np.ndarray, "rows columns"] | None, side: int = VIEW
) -> Image.Image:
    """What a model is shown, small, with hidden patches in grey; None: nothing is hidden."""
    if visible is None:
        return _small(view, side)
    hidden = ~_spread(visible, view.shape[:2]).astype(bool)
    shown = view.astype(np.float32)
    shown[hidden] = (1 - _SHADE) * shown[hidden] + _SHADE * np.array(_GREY)
    return _small(shown.astype(np.uint8), side)


def lit(
    view: Pixels, weights: Float[np.ndarray, "rows columns"], largest: float, side: int = VIEW
) -> Image.Image:
    """A picture, small, as bright as the weights of its patches are beside the largest."""
    light = _DARK + (1 - _DARK) * np.clip(weights / max(largest, 1e-12), 0, 1)
    return _small((view * _spread(light, view.shape[:2])[..., None]).astype(np.uint8), side)


def jpeg(rows: Sequence[Sequence[Image.Image]]) -> bytes:
    """Pictures side by side, in rows, on a grey that does on light and dark pages."""
    widths = [sum(one.width for one in row) + _GAP * (len(row) - 1) for row in rows]
    heights = [max(one.height for one in row) for row in rows]
    whole = Image.new("RGB", (max(widths), sum(heights) + _GAP * (len(rows) - 1)), _GREY)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for one in row:
            whole.paste(one, (left, top))
            left += one.width + _GAP
        top += height + _GAP
    content = io.BytesIO()
    whole.save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()


def _small(view: Pixels, side: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(view))
    return _sized(image, side / max(image.size))


def _sized(image: Image.Image, scale: float) -> Image.Image:
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height))


def _spread(cells: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Every cell as large as its patch."""
    rows, columns = cells.shape
    down = np.arange(size[0]) * rows // size[0]
    across = np.arange(size[1]) * columns // size[1]
    return cells[down[:, None], across[None]]
