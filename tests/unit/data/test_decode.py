"""Decoding: every kind of picture comes out as upright 8-bit RGB, everything else is refused."""

import contextlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from vistill.data import BrokenImage, decode_image
from vistill.data.wide import MAX_PIXELS

SCENE = np.zeros((24, 40, 3), np.uint8)
SCENE[:12, :20] = (250, 30, 20)
SCENE[12:, :20] = (20, 200, 60)
SCENE[:, 20:, 2] = np.linspace(0, 255, 20, dtype=np.uint8)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return decode_image(data).permute(1, 2, 0).numpy()


def scene(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(SCENE).convert(mode)


def test_memory_is_channels_last() -> None:
    image = decode_image(encoded(scene(), "JPEG"))
    assert image.shape == (3, 24, 40)
    assert image.stride() == (1, 120, 3)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA"])
def test_lossless_kinds(kind: str) -> None:
    np.testing.assert_array_equal(decoded(encoded(scene(), kind)), SCENE)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg_equals_pillow(options: dict) -> None:
    data = encoded(scene(), "JPEG", quality=90, **options)
    np.testing.assert_array_equal(decoded(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_of_other_colours(mode: str) -> None:
    data = encoded(scene(mode), "JPEG", quality=95)
    expected = np.asarray(scene(mode).convert("RGB")).astype(int)
    assert np.abs(decoded(data) - expected).mean() < 8


@pytest.mark.parametrize(("mode", "kind"), [("1", "PNG"), ("L", "PNG"), ("CMYK", "TIFF")])
def test_other_modes(mode: str, kind: str) -> None:
    picture = scene(mode)
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(decoded(encoded(picture, kind)), expected)


def test_palette() -> None:
    picture = scene().quantize(16)
    np.testing.assert_array_equal(decoded(encoded(picture, "PNG")), picture.convert("RGB"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_becomes_white(mode: str) -> None:
    picture = scene(mode)
    alpha = Image.fromarray(np.repeat(np.uint8([[0, 255]]), 20, axis=1).repeat(24, axis=0))
    picture.putalpha(alpha)
    pixels = decoded(encoded(picture, "PNG"))
    assert (pixels[:, :20] == 255).all()
    np.testing.assert_array_equal(pixels[:, 20:], np.asarray(scene(mode).convert("RGB"))[:, 20:])


def test_transparent_palette_entry_becomes_white() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    pixels = decoded(encoded(picture, "PNG", transparency=0))
    assert pixels.tolist() == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled(kind: str) -> None:
    values = np.array([[0, 257, 514, 32896, 65535]], np.uint16)
    pixels = decoded(encoded(Image.fromarray(values), kind))
    assert pixels[0, :, 0].tolist() == [0, 1, 2, 128, 255]


def test_float_pictures() -> None:
    pixels = decoded(encoded(Image.fromarray(np.float32([[0.0, 0.5, 1.0]])), "TIFF"))
    assert pixels[0, :, 1].tolist() == [0, 128, 255]
    for bad in (300.0, float("nan")):
        with pytest.raises(BrokenImage, match="no known scale"):
            decode_image(encoded(Image.fromarray(np.float32([[0.0, bad]])), "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(scene(), kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decoded(data), expected)


def test_damaged_exif_turns_nothing() -> None:
    data = encoded(scene(), "JPEG", exif=b"Exif\0\0" + b"II*\0\xff\xff\xff\xff" + b"x" * 30)
    assert decode_image(data).shape == (3, 24, 40)


def test_first_frame_of_an_animation() -> None:
    frames = [scene(), Image.new("RGB", (40, 24))]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(decoded(data), SCENE)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_truncated_is_broken(kind: str) -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    for cut in (len(data) * 2 // 3, 40):
        with pytest.raises(BrokenImage):
            decode_image(data[:cut])


def test_truncated_jpeg_with_a_proper_end_is_broken() -> None:
    data = encoded(Image.effect_noise((64, 64), 90), "JPEG")
    with pytest.raises(BrokenImage, match="truncated"):
        decode_image(data[: len(data) // 2] + b"\xff\xd9")


@pytest.mark.parametrize(("data", "reason"), [(b"", "empty"), (b"<html>", "not a picture")])
def test_no_picture(data: bytes, reason: str) -> None:
    with pytest.raises(BrokenImage, match=reason):
        decode_image(data)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        whole = kind + body
        return struct.pack(">I", len(body)) + whole + struct.pack(">I", zlib.crc32(whole))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.parametrize("side", [14_000, 60_000])
def test_bombs_are_broken_and_quiet(side: int) -> None:
    assert side * side > MAX_PIXELS
    jpeg = bytearray(encoded(scene(), "JPEG"))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = struct.pack(">HH", side, side)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in (png_header(side, side), bytes(jpeg)):
            with pytest.raises(BrokenImage, match=r"bomb|pixels"):
                decode_image(data)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF"]), st.data())
def test_flipped_bytes_never_crash(kind: str, data: st.DataObject) -> None:
    content = bytearray(encoded(scene(), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BrokenImage):
        assert decode_image(bytes(content)).shape[0] == 3
