"""All eight orientations, wherever a picture may say them."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_kinds import kinds
from PIL import Image

from vistill.data import decode_image
from vistill.data.orientation import jpeg_orientation, upright

PADDING = b"\xff\xe2\xff\xff" + b"\0" * 0xFFFD
"""A segment of 64 KB, as long as they come."""
RANGE = (0.0, 65535.0)

Made = tuple[bytes, np.ndarray]


def exif(orientation: int) -> bytes:
    """TIFF-like tags, after another one."""
    return struct.pack("<2sHIH", b"II", 42, 8, 2) + struct.pack(
        "<HHIIHHIII", 0x0102, 3, 1, 8, 0x0112, 3, 1, orientation, 0
    )


def xmp(orientation: int) -> bytes:
    inside = f'<rdf:Description xmlns:tiff="x" tiff:Orientation="{orientation}"/>'
    return f"<x:xmpmeta>{inside}</x:xmpmeta>".encode()


def xmp_element(orientation: int) -> bytes:
    return f"<x:xmpmeta><tiff:Orientation>{orientation}</tiff:Orientation></x:xmpmeta>".encode()


def segment(content: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


def jpeg(*parts: bytes, mode: str = "RGB") -> bytes:
    """A JPEG with these segments behind its start."""
    data = kinds.saved(Image.fromarray(kinds.RGB).convert(mode), "JPEG", quality=95)
    return data[:2] + b"".join(parts) + data[2:]


def in_exif(o: int) -> bytes:
    return segment(b"Exif\0\0" + exif(o))


def in_xmp(o: int) -> bytes:
    return segment(b"http://ns.adobe.com/xap/1.0/\0" + xmp(o))


def plain(data: bytes, wide: bool = False) -> np.ndarray:
    return decode_image(data, RANGE if wide else None).permute(1, 2, 0).numpy()


def png(o: int, *, values: np.ndarray = kinds.RGB, bits: int = 8, colour: int = 2) -> bytes:
    return kinds.png(values, bits, colour, (b"eXIf", exif(o)))


def png_with(o: int, chunk: bytes, content: bytes) -> bytes:
    """A PNG with a chunk behind its pixels."""
    data = kinds.saved(kinds.RGB, "PNG")
    checked = chunk + content
    packed = struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))
    return data[:-12] + packed + data[-12:]


CARRIERS: dict[str, Callable[[int], bytes]] = {
    "JPEG, EXIF": lambda o: jpeg(in_exif(o)),
    "JPEG, EXIF behind 64 KB": lambda o: jpeg(PADDING, PADDING, in_exif(o)),
    "JPEG, EXIF over two segments": lambda o: jpeg(
        segment(b"Exif\0\0" + exif(o)[:20]), segment(b"Exif\0\0" + exif(o)[20:])
    ),
    "JPEG, XMP": lambda o: jpeg(in_xmp(o)),
    "JPEG, XMP element": lambda o: jpeg(
        segment(b"http://ns.adobe.com/xap/1.0/\0" + xmp_element(o))
    ),
    "JPEG, XMP behind 64 KB": lambda o: jpeg(PADDING, in_xmp(o)),
    "JPEG, EXIF over XMP": lambda o: jpeg(in_xmp(o % 8 + 1), in_exif(o)),
    "JPEG, thumbnail with another one": lambda o: jpeg(
        segment(b"Exif\0\0" + exif(o) + jpeg(in_exif(o % 8 + 1)))
    ),
    "JPEG, padded markers": lambda o: jpeg(b"\xff\xff", in_exif(o)),
    "CMYK JPEG, XMP behind 64 KB": lambda o: jpeg(PADDING, in_xmp(o), mode="CMYK"),
    "PNG": png,
    "PNG, behind the pixels": lambda o: png_with(o, b"eXIf", exif(o)),
    "PNG, XMP": lambda o: png_with(o, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(o)),
    "PNG of 16 bits": lambda o: png(o, values=kinds.GREY16, bits=16, colour=0),
    "PNG of 16 bits, RGB, all bits": lambda o: png(o, values=kinds.RGB16, bits=16),
    "WebP": lambda o: kinds.saved(kinds.RGB, "WEBP", lossless=True, exif=b"Exif\0\0" + exif(o)),
    "WebP, XMP": lambda o: kinds.saved(kinds.RGB, "WEBP", lossless=True, xmp=xmp(o)),
    "AVIF": lambda o: kinds.saved(kinds.RGB, "AVIF", quality=100, exif=exif(o)),
    "TIFF": lambda o: kinds.tiff(kinds.RGB, t274=[o]),
    "TIFF of 1 bit": lambda o: kinds.tiff(kinds.BITS, bits=1, t274=[o]),
    "TIFF of 16 bits": lambda o: kinds.tiff(kinds.GREY16, t274=[o]),
    "TIFF of 16 bits, RGB": lambda o: kinds.tiff(kinds.RGB16, t274=[o]),
    "TIFF of 16 bits, RGB, all bits": lambda o: kinds.tiff(kinds.RGB16, t274=[o], order=">"),
    "TIFF of 16 bits, a plane per colour": lambda o: kinds.tiff(kinds.RGB16, t274=[o], planar=True),
    "TIFF of floats, RGB": lambda o: kinds.tiff((kinds.RGB16 / 65535).astype("f4"), t274=[o]),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("carrier", CARRIERS)
def test_pictures_are_upright(carrier: str, orientation: int) -> None:
    make, wide = CARRIERS[carrier], "all bits" in carrier
    as_stored, found = plain(make(1), wide), plain(make(orientation), wide)
    assert as_stored.shape == (kinds.HEIGHT, kinds.WIDTH, 3)
    expected = upright(as_stored, orientation)
    assert found.shape == expected.shape
    off = np.abs(found.astype(int) - expected).max()
    assert off <= (4 if carrier == "AVIF" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_the_eight_mean(orientation: int) -> None:
    """By the place of the stored first row and first column, as TIFF 6 states them."""
    stored = np.arange(6).reshape(2, 3, 1)
    sides = {1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left",
             5: "left top", 6: "right top", 7: "right bottom", 8: "left bottom"}  # fmt: skip
    row, column = sides[orientation].split()
    shown = upright(stored, orientation)[..., 0]
    edges = {"top": shown[0], "bottom": shown[-1], "left": shown[:, 0], "right": shown[:, -1]}
    assert set(edges[row].tolist()) == {0, 1, 2}
    assert set(edges[column].tolist()) == {0, 3}


@pytest.mark.parametrize("bad", [0, 9, 65535])
def test_what_is_none_of_the_eight_turns_nothing(bad: int) -> None:
    np.testing.assert_array_equal(plain(jpeg(in_exif(bad))), plain(jpeg()))


def test_a_cut_segment_says_nothing() -> None:
    for data in (
        jpeg(in_exif(6))[:30],
        b"\xff\xd8\xff\xe1",
        b"\xff\xd8\xff\xe1\0\0" * 3,
        b"\xff\xd8",
    ):
        assert jpeg_orientation(data) == 1


@given(st.binary(max_size=80))
def test_any_bytes_have_an_end(data: bytes) -> None:
    jpeg_orientation(b"\xff\xd8\xff" + data)


def test_heic_is_read_where_its_decoder_is_installed(tmp_path, monkeypatch) -> None:
    """A stand-in for pillow-heif: it takes what begins like HEIC."""
    data = b"\0\0\0\x18ftypheic" + kinds.saved(kinds.RGB, "PNG")
    with pytest.raises(Exception, match="pip install pillow-heif"):
        decode_image(data)
    (tmp_path / "pillow_heif.py").write_text(
        "import io\n"
        "from PIL import Image, PngImagePlugin\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', lambda file, name: PngImagePlugin.PngImageFile(\n"
        "        io.BytesIO(file.read()[12:])), lambda head: head[4:12] == b'ftypheic')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from vistill.data import decode

    decode._register_heif.cache_clear()
    try:
        np.testing.assert_array_equal(plain(data), kinds.RGB)
    finally:
        decode._register_heif.cache_clear()
        Image.OPEN.pop("HEIF", None)
        if "HEIF" in Image.ID:
            Image.ID.remove("HEIF")
