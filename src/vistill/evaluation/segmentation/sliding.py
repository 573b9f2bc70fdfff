"""Class scores of pictures of any size by a window that slides over them (spec 9)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def slide(
    image: Float[Tensor, "1 3 h w"],
    window: tuple[int, int],
    stride: tuple[int, int],
    scores: Callable[[Float[Tensor, "k 3 wh ww"]], Float[Tensor, "k c wh ww"]],
    *,
    at_once: int = 8,
) -> Float[Tensor, "1 c h w"]:
    """Scores of every pixel, the mean over the windows that see it.

    The last windows of a row and a column are pushed back into the picture, as mmsegmentation does.
    A picture smaller than the window is extended by zeros, its mean colour.

    Args:
        image: normalised.
        window, stride: rows and columns.
        scores: of some windows.
        at_once: windows in a forward pass.
    """
    height, width = image.shape[2:]
    below, right = max(0, window[0] - height), max(0, window[1] - width)
    image = F.pad(image, (0, right, 0, below))
    tops, lefts = (
        _starts(whole, part, step)
        for whole, part, step in zip(image.shape[2:], window, stride, strict=True)
    )
    places = [(top, left) for top in tops for left in lefts]
    total, seen = None, image.new_zeros(1, 1, *image.shape[2:])
    for start in range(0, len(places), at_once):
        some = places[start : start + at_once]
        parts = [image[:, :, t : t + window[0], m : m + window[1]] for t, m in some]
        found = scores(torch.cat(parts))
        if total is None:
            total = found.new_zeros(1, found.shape[1], *image.shape[2:])
        for (top, left), one in zip(some, found, strict=True):
            total[0, :, top : top + window[0], left : left + window[1]] += one
            seen[0, :, top : top + window[0], left : left + window[1]] += 1
    assert total is not None
    return (total / seen)[:, :, :height, :width]


def _starts(whole: int, part: int, step: int) -> list[int]:
    count = max(whole - part + step - 1, 0) // step + 1
    return [min(number * step, whole - part) for number in range(count)]
