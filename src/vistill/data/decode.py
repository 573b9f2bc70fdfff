"""Encoded bytes of one picture to uint8 RGB: simplejpeg for JPEG, Pillow for everything else."""

import io
import warnings

import numpy as np
import simplejpeg
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from vistill.data.broken import BrokenImage

MAX_PIXELS = 2 * 89_478_485
"""Pillow's own limit: larger pictures are taken for decompression bombs."""
EXIF = b"Exif\0\0"
EXIF_WITHIN = 1 << 16
WHITE = (255, 255, 255, 255)


def decode_image(data: bytes) -> UInt8[Tensor, "3 h w"]:
    """Decode to RGB, upright (EXIF), the first frame of an animation.

    The tensor is a channels-first view of height-width-channel memory. Transparent pictures are
    laid on white. 16-bit grey is scaled to 8 bits (÷ 257), not clipped. Truncated pictures are
    broken, even where a decoder would fill the rest with grey.

    Raises:
        BrokenImage: with the reason.
    """
    if not data:
        raise BrokenImage("the file is empty")
    pixels = _decode_jpeg(data) if data[:3] == b"\xff\xd8\xff" else None
    if pixels is None:
        pixels = _decode_any(data)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """Bit-equal to Pillow and faster; None for what simplejpeg refuses but Pillow may read."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height)
        if colorspace in ("CMYK", "YCCK"):
            return None
        pixels = simplejpeg.decode_jpeg(data)
    except ValueError as error:
        if "remature end" in str(error):
            raise BrokenImage("truncated") from error
        return None
    return _upright(pixels, _orientation(data))


def _orientation(data: bytes) -> int:
    start = data.find(EXIF, 0, EXIF_WITHIN)
    if start < 0:
        return 1
    exif = Image.Exif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exif.load(data[start : start + EXIF_WITHIN])
            return exif.get(ExifTags.Base.Orientation, 1)
        except Exception:  # a damaged tag, which Pillow reports in many ways, turns nothing
            return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the eight EXIF orientations on `[H, W, 3]`."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _decode_any(data: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as image:
                _check_size(*image.size)
                image.load()
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
                return _upright(_rgb(image), orientation)
        except BrokenImage:
            raise
        except UnidentifiedImageError as error:
            raise BrokenImage("not a picture") from error
        # Pillow's parsers meet hostile bytes with nearly any exception type.
        except Exception as error:
            reason = "truncated" if "truncated" in str(error).lower() else f"damaged: {error}"
            raise BrokenImage(reason) from error


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _wide_grey(np.asarray(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    return np.array(image.convert("RGB"))


def _wide_grey(values: np.ndarray) -> np.ndarray:
    """16-bit integers or floats in [0, 1] to three equal 8-bit channels."""
    high = 1.0 if values.dtype.kind == "f" else 65535.0
    if not (values.min() >= 0 and values.max() <= high):  # false for NaN
        raise BrokenImage(f"grey values beyond 0..{high:g} have no known scale")
    grey = np.rint(values * (255.0 / high)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BrokenImage(f"{width}×{height} pixels: taken for a decompression bomb")
