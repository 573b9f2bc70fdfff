"""How a recording was held, and its pixels upright."""

import struct
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import UInt8


class Pose(NamedTuple):
    """How a recording was held.

    Attributes:
        rotation: quarter turns, counterclockwise in degrees, that set the picture upright.
        mirrored: whether left and right have to change places after the turn.
    """

    rotation: int
    mirrored: bool

    @classmethod
    def of(cls, frame: Any) -> Self:
        """From its display matrix, which takes x, y to ax + cy, bx + dy."""
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return cls(0, False)
        a, b, _, c, d = struct.unpack_from("=5i", bytes(matrix))
        mirrored = a * d < b * c
        if mirrored:
            a = -a
        if abs(a) >= abs(b):
            return cls(0 if a >= 0 else 180, mirrored)
        return cls(90 if b < 0 else 270, mirrored)

    def upright(self, pixels: UInt8[np.ndarray, "*t h w 3"]) -> UInt8[np.ndarray, "*t h w 3"]:
        """A view of the pixels of frames, turned and mirrored."""
        turned = np.rot90(pixels, self.rotation // 90, axes=(-3, -2))
        return turned[..., ::-1, :] if self.mirrored else turned
