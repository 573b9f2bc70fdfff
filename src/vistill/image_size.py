"""The size of inputs as everyone writes it: the side of a square, or height and width."""

from collections.abc import Sequence
from itertools import product

from vistill.errors import UserError

ImageSize = int | Sequence[int]
"""Side of a square in pixels, or (height, width)."""


def height_width(size: ImageSize) -> tuple[int, int]:
    """Both sides in pixels, height first.

    Raises:
        UserError: there are more sides, or fewer.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2:
        raise UserError(f"image_size must be one side or (height, width), not {sides}")
    return sides[0], sides[1]


def same_shape(size: ImageSize, other: ImageSize) -> bool:
    """Whether both are as high for their width."""
    (height, width), (tall, wide) = height_width(size), height_width(other)
    return height * wide == width * tall


def plain_size(size: ImageSize) -> int | list[int]:
    """The side of a square, else [height, width]: as files and other libraries have it."""
    height, width = height_width(size)
    return height if height == width else [height, width]


def shown_size(size: ImageSize) -> str:
    """The size as a setting has it: `224`, or `[64,128]` for 64 pixels high and 128 wide."""
    return str(plain_size(size)).replace(" ", "")


def fits(size: ImageSize, multiple: int) -> bool:
    """Whether both sides are multiples of `multiple`."""
    return not any(side % multiple for side in height_width(size))


def nearest_fitting(size: ImageSize, multiple: int) -> str:
    """The sizes next to `size` whose sides are multiples of `multiple`, nearest first."""
    sides = height_width(size)
    square = sides[0] == sides[1]

    def around(side: int) -> set[int]:
        below = side // multiple * multiple
        return {max(below, multiple), below + multiple if side % multiple else below}

    pairs = [(h, w) for h, w in product(*map(around, sides)) if h == w or not square]
    pairs.sort(key=lambda pair: sum(abs(a - b) for a, b in zip(pair, sides, strict=True)))
    return " or ".join(map(shown_size, pairs[:2]))
