"""How a picture is to be turned: the eight orientations of EXIF and XMP (TIFF tag 274)."""

import re
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image

EXIF = b"Exif\0\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
_IN_XMP = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])")
_APP1 = 0xE1
_ENDS = frozenset({0xDA, 0xD9})
"""Start of the first scan, or of nothing more."""
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


def upright(pixels: np.ndarray, orientation: object) -> np.ndarray:
    """Undo an orientation on `[H, W, C]`; what is none of the eight turns nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def jpeg_orientation(data: bytes) -> object:
    """What EXIF says, else XMP, in any segment before the first scan; 1 where none does."""
    exif = xmp = b""
    for start, stop in _app1_segments(data):
        if data.startswith(EXIF, start):  # what does not fit into one segment goes on in the next
            exif += data[start + len(EXIF) : stop]
        elif data.startswith(XMP, start):
            xmp += data[start + len(XMP) : stop]
    found = tiff_tags(exif).get(ExifTags.Base.Orientation) if exif else None
    if found is None and (match := _IN_XMP.search(xmp)):
        return int(match[1])
    return 1 if found is None else found


def tiff_tags(data: bytes) -> Image.Exif:
    """The tags of the first folder of a TIFF, which is also what EXIF is; none of a damaged one."""
    exif = Image.Exif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exif.load(data)
            dict(exif)
        except Exception:  # damaged tags, which Pillow reports in many ways, say nothing
            return Image.Exif()
    return exif


def _app1_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and stop of the content of every APP1 segment."""
    at, last = 2, len(data) - 4
    while at <= last:
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF:  # what is no marker, and padding before one
            at = data.find(b"\xff", at + 1)
            if at < 0:
                return
        elif marker in _ENDS:
            return
        elif marker in _WITHOUT_LENGTH:
            at += 2
        else:
            stop = at + 2 + (data[at + 2] << 8 | data[at + 3])
            if marker == _APP1:
                yield at + 4, stop
            at = stop if stop > at + 2 else at + 2
