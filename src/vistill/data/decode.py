"""Encoded bytes of one picture to uint8 RGB: simplejpeg for JPEG, Pillow for nearly all else."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module

import numpy as np
import simplejpeg
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from vistill.data.broken import BrokenImage
from vistill.data.orientation import jpeg_orientation, tiff_tags, upright
from vistill.data.source import HEIF_MODULE
from vistill.data.wide import (
    TIFF,
    ValueRange,
    Wide,
    check_size,
    is_wide_colour,
    is_wide_grey,
    refuse_big_tiff,
    wide_colour,
    wide_grey,
)

TRUNCATED = "truncated"
WHITE = (255, 255, 255, 255)
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_HEIC = {b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1")}
_LFS = b"version https://git-lfs"


class EndMissing(BrokenImage):
    """A JPEG that is whole but for its end marker.

    Attributes:
        pixels: uint8 `[3, h, w]`.
    """

    def __init__(self, pixels: UInt8[Tensor, "3 h w"]) -> None:
        super().__init__(
            f"{TRUNCATED}, but nothing is missing except the end marker: allow_truncated=true "
            "would use it"
        )
        self.pixels = pixels


def decode_image(data: bytes, value_range: ValueRange | None = None) -> UInt8[Tensor, "3 h w"]:
    """Decode to RGB, upright (EXIF or XMP), the first frame of an animation.

    The tensor is a channels-first view of height-width-channel memory. Transparent pictures are
    laid on white. Truncated pictures are broken, even where a decoder would fill the rest with
    grey.

    Args:
        data: the bytes of the file.
        value_range: of pictures with more than 8 bits, which numbers are black and white; None: 0
            and 65535, of floats 0 and 1.

    Raises:
        BrokenImage: with the reason.
    """
    if not data:
        raise BrokenImage("the file is empty")
    if data[:3] != _JPEG:
        return _tensor(_decode_any(data, value_range))
    try:
        return _tensor(_decode_jpeg(data))
    except BrokenImage as error:
        whole = _without_end(data) if str(error) == TRUNCATED else None
        if whole is None:
            raise
        raise EndMissing(_tensor(whole)) from error


def wide_values(data: bytes) -> Wide | None:
    """The numbers of a picture with more than 8 bits per value; None of all others.

    Raises:
        BrokenImage: as `decode_image`.
    """
    with _complaints(data):
        if is_wide_colour(data):
            return wide_colour(data)
        with _opened(data) as image:
            return wide_grey(image) if is_wide_grey(image) else None


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _decode_jpeg(data: bytes) -> np.ndarray:
    """Bit-equal to Pillow and faster; Pillow for what simplejpeg refuses."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        check_size(width, height)
        if colorspace not in ("CMYK", "YCCK"):
            return upright(simplejpeg.decode_jpeg(data), jpeg_orientation(data))
    except ValueError as error:
        if "remature end" in str(error):
            raise BrokenImage(TRUNCATED) from error
    return _decode_any(data)


def _without_end(data: bytes) -> np.ndarray | None:
    """The pixels of a JPEG without an end marker; None where anything else is missing."""
    data += _JPEG_END
    try:
        if simplejpeg.decode_jpeg_header(data)[2] in ("CMYK", "YCCK"):
            simplejpeg.decode_jpeg(data, colorspace="CMYK")  # complains of more than Pillow does
        return _decode_jpeg(data)
    except (ValueError, BrokenImage):
        return None


def _decode_any(data: bytes, value_range: ValueRange | None = None) -> np.ndarray:
    with _complaints(data):
        if data.startswith(TIFF) and is_wide_colour(data, beyond_pillow=value_range is None):
            # Pillow turns a TIFF while it loads it; this does not.
            orientation = tiff_tags(data).get(ExifTags.Base.Orientation)
            return upright(wide_colour(data).rgb(value_range), orientation)
        with _opened(data) as image:
            refuse_big_tiff(image, value_range)
            image.load()
            if is_wide_grey(image):
                pixels = wide_grey(image).rgb(value_range)
            elif value_range is not None and is_wide_colour(data):
                pixels = wide_colour(data).rgb(value_range)
            else:
                pixels = _rgb(image)
            return upright(pixels, _orientation(data, image))


@contextmanager
def _complaints(data: bytes) -> Iterator[None]:
    """Whatever is wrong with a picture becomes a BrokenImage."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except BrokenImage:
            raise
        except UnidentifiedImageError as error:
            raise BrokenImage(_what_it_is(data)) from error
        # Pillow's parsers meet hostile bytes with nearly any exception type.
        except Exception as error:
            reason = TRUNCATED if TRUNCATED in str(error).lower() else f"damaged: {error}"
            raise BrokenImage(reason) from error


def _opened(data: bytes) -> Image.Image:
    if data[4:12] in _HEIC:
        _register_heif()
    image = Image.open(io.BytesIO(data))
    check_size(*image.size)
    return image


@cache
def _register_heif() -> bool:
    """Teach Pillow to read HEIC where its plug-in is installed."""
    try:
        import_module(HEIF_MODULE).register_heif_opener()
    except ImportError:
        return False
    return True


def _orientation(data: bytes, image: Image.Image) -> object:
    """How a loaded picture is still to be turned."""
    if data[:3] == _JPEG:
        return jpeg_orientation(data)
    return image.getexif().get(ExifTags.Base.Orientation)


def _rgb(image: Image.Image) -> np.ndarray:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    return np.array(image.convert("RGB"))


def _what_it_is(data: bytes) -> str:
    """Why Pillow does not know a picture."""
    if data[4:12] in _HEIC and not _register_heif():
        return "HEIC, whose decoder is not installed: pip install pillow-heif"
    if data.startswith(TIFF):
        return "a kind of TIFF that is not read; convert it to one of 8 bits"
    if data.startswith(_JPEG_XL):
        return "JPEG XL, for which there is no decoder; convert it"
    if data.startswith(_LFS):
        return "a pointer of Git LFS; fetch the file with git lfs pull"
    return "not a picture"
