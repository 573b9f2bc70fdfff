"""Pictures with more than 8 bits per value: which numbers are black and white."""

import io
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

from vistill.data.broken import BrokenImage
from vistill.data.orientation import tiff_tags

MAX_PIXELS = 2 * 89_478_485
"""Pillow's own limit: larger pictures are taken for decompression bombs."""
ValueRange = tuple[float, float]

TIFF = (b"II*\0", b"MM\0*")
"""What a TIFF begins with."""
_PNG = b"\x89PNG\r\n\x1a\n"
_NOT_READ = "which is not read with more than 8 bits of every colour; convert it"
_PPM = re.compile(rb"P6\s+\d+\s+\d+\s+(\d+)\s")
_BITS, _PHOTOMETRIC, _PLANAR, _TILE = 258, 262, 284, 322


class Wide(NamedTuple):
    """Values of a picture as they are stored.

    Attributes:
        values: `[H, W]`, or `[H, W, C]` with grey and alpha, RGB or RGBA.
        inverted: whether the smallest number is white.
        transparent: the one number of grey that is transparent, or None.
    """

    values: np.ndarray
    inverted: bool = False
    transparent: float | None = None

    @property
    def colours(self) -> np.ndarray:
        """The values without alpha."""
        channels = self.values.shape[2] if self.values.ndim == 3 else 1
        return self.values[..., : channels - 1] if channels in (2, 4) else self.values

    @property
    def usual(self) -> ValueRange:
        """The range where nothing else is said: 16 bits, or 0 to 1."""
        return (0.0, 1.0) if self.values.dtype.kind == "f" else (0.0, 65535.0)

    def extent(self) -> tuple[float, float] | None:
        """The smallest and the largest number; None where none is finite."""
        finite = self.colours[np.isfinite(self.colours)]
        return (float(finite.min()), float(finite.max())) if finite.size else None

    def rgb(self, value_range: ValueRange | None) -> np.ndarray:
        """8-bit RGB `[H, W, 3]`, transparent parts laid on white.

        With a range, what lies beyond it is black or white, and what is no number black.

        Raises:
            BrokenImage: without one, where values lie beyond the usual range.
        """
        low, high = value_range or self.usual
        values = self.colours.astype(np.float64)
        if value_range is None:
            if not (values.min() >= low and values.max() <= high):  # false for NaN
                found = f"{np.nanmin(values):g} to {np.nanmax(values):g}" if values.size else ""
                raise BrokenImage(
                    f"values from {found} have no known scale; value_range says what is black and "
                    "white"
                )
        else:
            values = np.clip(np.nan_to_num(values, nan=low), low, high)
        bright = (values - low) * (255.0 / (high - low))
        if self.inverted:
            bright = 255.0 - bright
        if self.values.ndim == 3 and self.values.shape[2] in (2, 4):
            alpha = self.values[..., -1:] / self.usual[1]
            bright = 255.0 + (bright - 255.0) * alpha
        if self.transparent is not None:
            bright[self.values == self.transparent] = 255.0
        bright = np.rint(bright).astype(np.uint8)
        if bright.ndim == 2:
            bright = bright[..., None]
        return bright if bright.shape[2] == 3 else np.repeat(bright[..., :1], 3, axis=2)


def is_wide_grey(image: Image.Image) -> bool:
    """Whether Pillow keeps all bits of the picture."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def wide_grey(image: Image.Image) -> Wide:
    """Grey of 16 or 32 bits or floats, of a loaded picture."""
    tags = getattr(image, "tag_v2", {})
    # Pillow undoes `white is zero` for 8 bits and fewer only.
    return Wide(np.asarray(image), tags.get(_PHOTOMETRIC) == 0, image.info.get("transparency"))


def is_wide_colour(data: bytes, *, beyond_pillow: bool = False) -> bool:
    """Whether these are the bytes of a PNG, TIFF or PPM with more than 8 bits of every colour.

    Args:
        data: of the file.
        beyond_pillow: only TIFFs of which Pillow would not even give the upper 8 bits: with floats,
            and with a plane of 16 bits per colour, where it takes every number for two.
    """
    if data.startswith(TIFF):
        tags = tiff_tags(data)
        bits = tags.get(_BITS)
        if not isinstance(bits, tuple) or len(bits) == 1 or min(bits) <= 8:
            return False
        return not beyond_pillow or tags.get(_PLANAR) == 2 or max(bits) > 16
    if beyond_pillow:
        return False
    if data.startswith(_PNG):
        return data[24:26] in (b"\x10\2", b"\x10\4", b"\x10\6")
    header = _PPM.match(data)
    return header is not None and int(header[1]) > 255


def wide_colour(data: bytes) -> Wide:
    """All bits of a picture in colour, by FFmpeg.

    Raises:
        BrokenImage: it cannot be read that way.
    """
    import av  # PyAV is loaded by those who have such pictures only

    if data.startswith(TIFF) and _TILE in tiff_tags(data):  # which FFmpeg misreads
        raise BrokenImage(f"in tiles, {_NOT_READ}")
    form = "tiff_pipe" if data.startswith(TIFF) else "ppm_pipe" if data[:2] == b"P6" else "png_pipe"
    try:
        with av.open(io.BytesIO(data), "r", format=form) as container:
            stream = container.streams.video[0]
            check_size(stream.width, stream.height)
            frame = next(container.decode(stream))
            layout, width = frame.format, frame.width
            kind = "f4" if layout.components[0].bits == 32 else "u2"
            planes = [
                np.frombuffer(bytes(plane), (">" if layout.is_big_endian else "<") + kind).reshape(
                    plane.height, -1
                )
                for plane in frame.planes
            ]
    except (av.FFmpegError, StopIteration) as error:
        raise BrokenImage(f"damaged: {error}") from error
    channels = len(layout.components)
    if len(planes) == 1:
        return Wide(planes[0][:, : width * channels].reshape(-1, width, channels))
    return Wide(np.stack([planes[c.plane][:, :width] for c in layout.components], axis=2))


def refuse_big_tiff(image: Image.Image, value_range: ValueRange | None) -> None:
    """Refuse a BigTIFF in colour that neither Pillow nor FFmpeg would read aright."""
    if image.format == "TIFF" and (tags := image.tag_v2):  # type: ignore[attr-defined]
        bits = tags.get(_BITS, (8,))
        upper = value_range is None and tags.get(_PLANAR) != 2
        if len(bits) > 1 and min(bits) > 8 and not upper:
            raise BrokenImage(f"a BigTIFF, {_NOT_READ}")


def check_size(width: int, height: int) -> None:
    """Refuse a decompression bomb."""
    if width * height > MAX_PIXELS:
        raise BrokenImage(f"{width}×{height} pixels: taken for a decompression bomb")
