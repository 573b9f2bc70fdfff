"""Make a picture of every kind, decode it, and write the table of kinds in docs/data.md.

python scripts/picture_kinds.py [--check]

Every picture is made here from known numbers, and the row says what has to come out; the script
stops where something else does. With `--check` the page is compared, not written.
"""

import argparse
import io
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vistill.data import BrokenImage, decode_image

PAGE = Path(__file__).parents[1] / "docs" / "data.md"
BEGIN, END = "<!-- picture kinds: python scripts/picture_kinds.py -->", "<!-- end -->"
HEIGHT, WIDTH = 24, 40
LOSSY = 12.0
"""Mean distance of a lossy picture in grey levels; wrong colours are off by more."""

ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
RGB = np.stack([COLUMNS * 6, ROWS * 10, 255 - COLUMNS * 3 - ROWS * 4], axis=2).astype(np.uint8)
GREY = RGB[..., 2]
GREY16 = (COLUMNS * 1500 + ROWS * 250).astype(np.uint16)
RGB16 = np.stack([GREY16, GREY16[::-1], 65535 - GREY16], axis=2)
DEEP = (RGB16 >> 4).astype(np.uint16)
"""12 bits in 16."""
ALPHA = np.where(COLUMNS < 20, 0, 255).astype(np.uint8)
BITS = (COLUMNS // 4 + ROWS // 4) % 2 == 0

AS_IT_IS = "its colours"
NO_PROFILE = "RGB, without a colour profile"
ON_WHITE = "laid on white"
FIRST = "the first picture"
SCALED = "÷ 257"
UPPER = "the upper 8 of its 16 bits"
RANGE = "as `data.value_range` says"
BY_MAXIMUM = "by the file's own largest value"
UNIT = "0 to 1 becomes 0 to 255"
UPRIGHT = "black and white as they are meant"


@dataclass(frozen=True)
class Case:
    """One picture.

    Attributes:
        kind: of file.
        tried: what is special about this one.
        rule: what comes out, for the table.
        data: the file.
        expected: RGB, or the reason why it is broken.
        off: largest distance from it, or for lossy ones the largest mean distance.
        value_range: what is black and white, where that is said.
    """

    kind: str
    tried: str
    rule: str
    data: bytes
    expected: np.ndarray | str
    off: float = 0.0
    value_range: tuple[float, float] | None = None

    def problem(self) -> str | None:
        """What is wrong with what comes out."""
        try:
            found = decode_image(self.data, self.value_range).permute(1, 2, 0).numpy()
        except BrokenImage as error:
            fine = isinstance(self.expected, str) and self.expected in str(error)
            return None if fine else f"broken: {error}"
        if isinstance(self.expected, str):
            return f"not broken, but {self.expected!r} was expected"
        if found.shape != self.expected.shape:
            return f"{found.shape} instead of {self.expected.shape}"
        distance = np.abs(found.astype(float) - self.expected)
        worst = distance.mean() if self.off == LOSSY else distance.max()
        return None if worst <= self.off else f"off by {worst:.1f}"


def saved(pixels: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """A picture as Pillow writes it."""
    out = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(out, kind, **options)
    return out.getvalue()


def png(values: np.ndarray, bits: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of `[H, W]` or `[H, W, C]` numbers with so many bits each."""
    height, width = values.shape[:2]
    flat = values.reshape(height, -1)
    if bits == 16:
        lines = flat.astype(">u2").view(np.uint8)
    else:
        ones = (flat[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        lines = np.packbits(ones.reshape(height, -1).astype(np.uint8), axis=1)
    body = b"".join(b"\0" + line.tobytes() for line in lines)
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )


def tiff(
    values: np.ndarray,
    *,
    bits: int | None = None,
    photometric: int | None = None,
    order: str = "<",
    planar: bool = False,
    deflate: bool = False,
    tile: int = 0,
    big: bool = False,
    **tags: list[int],
) -> bytes:
    """A TIFF of `[H, W]` or `[H, W, C]` numbers, one strip (of every colour, if planar).

    Args:
        values: written with their own type; with `bits=1` packed.
        bits: per number.
        photometric: 0 white is zero, 1 black is zero, 2 RGB, 3 palette, 5 CMYK.
        order: of bytes.
        planar: one plane after the other.
        deflate: compress, with differences of neighbours.
        tile: side of tiles, 0 for a strip.
        big: the form for files above 4 GB.
        tags: further ones, `t274=[6]`, as 16-bit numbers.
    """
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    bits = bits or values.itemsize * 8
    planes = [values] if not planar else [values[..., c] for c in range(channels)]
    if tile:
        rest = ((0, -height % tile), (0, -width % tile), (0, 0))
        wide = np.pad(values.reshape(height, width, channels), rest)
        planes = [
            wide[y : y + tile, x : x + tile]
            for y in range(0, wide.shape[0], tile)
            for x in range(0, wide.shape[1], tile)
        ]
    pieces = []
    for plane in planes:
        if bits == 1:
            pieces.append(np.packbits(plane.astype(np.uint8), axis=1).tobytes())
            continue
        if deflate:
            plane = plane.copy()
            plane[:, 1:] -= plane[:, :-1].copy()
        body = plane.astype(plane.dtype.newbyteorder(order)).tobytes()
        pieces.append(zlib.compress(body) if deflate else body)
    form = {"u": 1, "b": 1, "i": 2, "f": 3}[values.dtype.kind]
    if photometric is None:
        photometric = 2 if channels >= 3 else 1
    fields: dict[int, tuple[str, list[int]]] = {
        256: ("H", [width]), 257: ("H", [height]), 258: ("H", [bits] * channels),
        259: ("H", [8 if deflate else 1]), 262: ("H", [photometric]), 277: ("H", [channels]),
        284: ("H", [2 if planar else 1]), 317: ("H", [2 if deflate else 1]),
        339: ("H", [form] * channels),
    }  # fmt: skip
    extra = channels - {2: 3, 5: 4}.get(photometric, 1)
    if extra:
        fields[338] = ("H", [2] * extra)
    fields |= {int(name[1:]): ("H", content) for name, content in tags.items()}
    offsets, counts = (324, 325) if tile else (273, 279)
    if tile:
        fields |= {322: ("H", [tile]), 323: ("H", [tile])}
    else:
        fields[278] = ("H", [height])
    wide_number = "Q" if big else "I"
    fields |= {
        offsets: (wide_number, [0] * len(pieces)),
        counts: (wide_number, list(map(len, pieces))),
    }
    return _tiff_file(fields, pieces, offsets, order, big)


def _tiff_file(
    fields: dict[int, tuple[str, list[int]]],
    pieces: list[bytes],
    offsets: int,
    order: str,
    big: bool,
) -> bytes:
    """Header, directory, what does not fit into it, and the pieces."""
    mark = b"II" if order == "<" else b"MM"
    count, entry, room, start = ("Q", "HHQ", 8, 16) if big else ("H", "HHI", 4, 8)
    numbers = {"H": 3, "I": 4, "Q": 16}
    size = struct.calcsize(order + count) + len(fields) * (struct.calcsize(order + entry) + room)
    outside = start + size + room
    for name in (False, True):  # first to learn where the pieces will lie
        extra = b""
        directory = struct.pack(order + count, len(fields))
        for tag, (kind, content) in sorted(fields.items()):
            packed = struct.pack(f"{order}{len(content)}{kind}", *content)
            directory += struct.pack(order + entry, tag, numbers[kind], len(content))
            if len(packed) > room:
                directory += struct.pack(order + ("Q" if big else "I"), outside + len(extra))
                extra += packed + b"\0" * (len(packed) % 2)
            else:
                directory += packed.ljust(room, b"\0")
        if not name:
            places = [outside + len(extra)]
            for piece in pieces[:-1]:
                places.append(places[-1] + len(piece))
            fields[offsets] = (fields[offsets][0], places)
    version = struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    return mark + version + directory + bytes(room) + extra + b"".join(pieces)


def three(grey: np.ndarray) -> np.ndarray:
    """Grey as RGB."""
    return np.repeat(np.asarray(grey)[..., None], 3, axis=2)


def scaled(values: np.ndarray, high: float = 65535.0) -> np.ndarray:
    """Numbers from 0 to `high` in 8 bits."""
    bright = np.rint(np.clip(values / high, 0, 1) * 255).astype(np.uint8)
    return bright if bright.ndim == 3 else three(bright)


def white(pixels: np.ndarray, alpha: np.ndarray = ALPHA) -> np.ndarray:
    """Laid on white."""
    part = alpha[..., None] / 255
    return np.rint(pixels * part + 255 * (1 - part)).astype(np.uint8)


def jpegs() -> Iterator[Case]:
    picture = Image.fromarray(RGB)
    for tried, options in (
        ("YCbCr", {}),
        ("progressive", {"progressive": True}),
        ("without subsampling", {"subsampling": 0}),
        ("RGB", {"keep_rgb": True}),
    ):
        yield Case("JPEG", tried, AS_IT_IS, saved(RGB, "JPEG", quality=95, **options), RGB, LOSSY)
    yield Case("JPEG", "grey", AS_IT_IS, saved(GREY, "JPEG", quality=95), three(GREY), LOSSY)
    cmyk = saved(picture.convert("CMYK"), "JPEG", quality=95)
    yield Case("JPEG", "CMYK", NO_PROFILE, cmyk, RGB, LOSSY)
    two = saved(picture, "MPO", save_all=True, append_images=[picture.transpose(0)], quality=95)
    yield Case("JPEG", "several pictures (MPO)", FIRST, two, RGB, LOSSY)


def pngs() -> Iterator[Case]:
    for bits in (1, 2, 4, 8):
        levels = (GREY >> (8 - bits)).astype(np.uint8)
        grey = three(levels * (255 // (2**bits - 1)))
        yield Case(
            "PNG", f"grey of {bits} bit{'s' * (bits > 1)}", AS_IT_IS, png(levels, bits, 0), grey
        )
        palette = np.random.default_rng(bits).integers(0, 256, (2**bits, 3)).astype(np.uint8)
        chunk = (b"PLTE", palette.tobytes())
        data = png(levels, bits, 3, chunk)
        yield Case(
            "PNG", f"palette of {bits} bit{'s' * (bits > 1)}", AS_IT_IS, data, palette[levels]
        )
    clear = png(levels, 8, 3, chunk, (b"tRNS", b"\0" * 128))
    alpha = np.where(levels < 128, 0, 255)
    yield Case("PNG", "palette with transparency", ON_WHITE, clear, white(palette[levels], alpha))
    yield Case("PNG", "RGB", AS_IT_IS, png(RGB, 8, 2), RGB)
    yield Case("PNG", "RGBA", ON_WHITE, png(np.dstack([RGB, ALPHA]), 8, 6), white(RGB))
    both = png(np.dstack([GREY, ALPHA]), 8, 4)
    yield Case("PNG", "grey with alpha", ON_WHITE, both, white(three(GREY)))
    key = png(GREY, 8, 0, (b"tRNS", struct.pack(">H", GREY[3, 3])))
    alpha = np.where(GREY[3, 3] == GREY, 0, 255)
    yield Case("PNG", "one transparent grey", ON_WHITE, key, white(three(GREY), alpha))
    key = png(RGB, 8, 2, (b"tRNS", struct.pack(">HHH", *RGB[3, 3])))
    alpha = np.where((RGB[3, 3] == RGB).all(axis=2), 0, 255)
    yield Case("PNG", "one transparent colour", ON_WHITE, key, white(RGB, alpha))
    frames = [Image.fromarray(RGB), Image.new("RGB", (WIDTH, HEIGHT))]
    moving = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    yield Case("PNG", "animation", FIRST, moving, RGB)
    yield Case("PNG", "grey of 16 bits", SCALED, png(GREY16, 16, 0), scaled(GREY16))
    key = png(GREY16, 16, 0, (b"tRNS", struct.pack(">H", GREY16[3, 3])))
    alpha = np.where(GREY16[3, 3] == GREY16, 0, 255)
    yield Case("PNG", "one transparent grey of 16 bits", f"{SCALED}, {ON_WHITE}", key,
               white(scaled(GREY16), alpha))  # fmt: skip
    alpha16 = ALPHA.astype(np.uint16) * 257
    for tried, values, colour in (
        ("RGB of 16 bits", RGB16, 2),
        ("RGBA of 16 bits", np.dstack([RGB16, alpha16]), 6),
        ("grey with alpha of 16 bits", np.dstack([GREY16, alpha16]), 4),
    ):
        colours = RGB16 if colour != 4 else three(GREY16)
        with_alpha = (lambda pixels: white(pixels)) if colour != 2 else (lambda pixels: pixels)
        rule = UPPER if colour == 2 else f"{UPPER}, {ON_WHITE}"
        expected = with_alpha((colours >> 8).astype(np.uint8))
        yield Case("PNG", tried, rule, png(values, 16, colour), expected, 1)
        deep = values.copy()
        deep[..., : 3 if colour != 4 else 1] >>= 4
        expected = with_alpha(scaled(colours >> 4, 4095))
        yield Case("PNG", f"{tried}, of which 12 are used", RANGE, png(deep, 16, colour), expected,
                   0, (0, 4095))  # fmt: skip
    yield Case("PNG", "grey of 16 bits, of which 12 are used", RANGE, png(DEEP[..., 0], 16, 0),
               scaled(DEEP[..., 0], 4095), 0, (0, 4095))  # fmt: skip


def tiffs() -> Iterator[Case]:
    kind = "TIFF"
    yield Case(kind, "1 bit", AS_IT_IS, tiff(BITS, bits=1), three(BITS * np.uint8(255)))
    for tried, values, expected in (
        ("1 bit, white is zero", BITS, three(~BITS * np.uint8(255))),
        ("grey, white is zero", GREY, three(255 - GREY)),
        ("grey of 16 bits, white is zero", GREY16, scaled(65535 - GREY16)),
    ):
        bits = 1 if values.dtype == bool else None
        yield Case(kind, tried, UPRIGHT, tiff(values, bits=bits, photometric=0), expected)
    palette = np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint8)
    table = (palette.T.astype(int) * 257).ravel().tolist()
    yield Case(kind, "palette", AS_IT_IS, tiff(GREY, photometric=3, t320=table), palette[GREY])
    for tried, options in (
        ("grey", {}),
        ("deflated, with differences", {"deflate": True}),
        ("tiles", {"tile": 16}),
        ("BigTIFF", {"big": True}),
    ):
        yield Case(kind, tried, AS_IT_IS, tiff(GREY, **options), three(GREY))
    for tried, options in (("RGB", {}), ("a plane per colour", {"planar": True})):
        yield Case(kind, tried, AS_IT_IS, tiff(RGB, **options), RGB)
    yield Case(kind, "RGBA", ON_WHITE, tiff(np.dstack([RGB, ALPHA])), white(RGB))
    cmyk = np.dstack([255 - RGB, np.zeros_like(GREY)])
    yield Case(kind, "CMYK", NO_PROFILE, tiff(cmyk, photometric=5), RGB, 1)
    lab = tiff(RGB, photometric=8)
    yield Case(kind, "Lab", "broken", lab, "a kind of TIFF that is not read")
    two = saved(RGB, "TIFF", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    yield Case(kind, "several pages", FIRST, two, RGB)
    for order, name in (("<", "little"), (">", "big")):
        tried = f"grey of 16 bits, {name}-endian"
        yield Case(kind, tried, SCALED, tiff(GREY16, order=order), scaled(GREY16))
    signed = GREY16 // 20 - np.int16(1000)
    yield Case(kind, "grey of 16 bits with a sign", RANGE, tiff(signed.astype(np.int16)),
               scaled(GREY16 // 20, 4000), 0, (-1000, 3000))  # fmt: skip
    yield Case(kind, "grey of 16 bits with a sign, below 0", "broken without `data.value_range`",
               tiff(signed.astype(np.int16)), "values from -1000 to")  # fmt: skip
    yield Case(kind, "grey of 32 bits", SCALED, tiff(GREY16.astype(np.uint32)), scaled(GREY16))
    unit = (GREY16 / 65535).astype(np.float32)
    yield Case(kind, "floats", UNIT, tiff(unit), scaled(unit, 1))
    yield Case(kind, "floats in RGB", UNIT, tiff((RGB16 / 65535).astype(np.float32)), scaled(RGB16))
    heights = np.where(BITS, np.nan, GREY16).astype(np.float32)
    yield Case(kind, "floats, some of them no numbers (black)", RANGE, tiff(heights),
               scaled(np.nan_to_num(heights), 3000), 1, (0, 3000))  # fmt: skip
    yield Case(kind, "floats beyond 0 to 1", "broken without `data.value_range`", tiff(heights),
               "have no known scale; value_range says")  # fmt: skip
    yield Case(
        kind, "floats of 64 bits", "broken", tiff(unit.astype(float)), "a kind of TIFF that is"
    )
    for tried, options in (
        ("RGB of 16 bits", {}),
        ("RGB of 16 bits, deflated, with differences", {"deflate": True}),
        ("RGB of 16 bits, big-endian", {"order": ">"}),
        ("RGB of 16 bits, a plane per colour", {"planar": True}),
        ("RGB of 16 bits in tiles", {"tile": 16}),
        ("RGB of 16 bits in a BigTIFF", {"big": True}),
    ):
        rule = SCALED if "planar" in options else UPPER
        yield Case(kind, tried, rule, tiff(RGB16, **options), scaled(RGB16), 1)
        deep = tiff(DEEP, **options)
        if options.keys() & {"tile", "big"}:
            yield Case(kind, tried, "broken with `data.value_range`", deep,
                       "which is not read with more than 8 bits", 0, (0, 4095))  # fmt: skip
        else:
            yield Case(kind, f"{tried}, of which 12 are used", RANGE, deep, scaled(DEEP, 4095), 0,
                       (0, 4095))  # fmt: skip


def others() -> Iterator[Case]:
    picture, rgba = Image.fromarray(RGB), np.dstack([RGB, ALPHA])
    palette = picture.quantize(32)
    frames = [picture, Image.new("RGB", (WIDTH, HEIGHT))]
    more = {"save_all": True, "append_images": frames[1:]}
    few = np.asarray(palette.convert("RGB"))
    yield Case("GIF", "palette", AS_IT_IS, saved(palette, "GIF"), few)
    moving = saved(palette, "GIF", save_all=True, append_images=[Image.new("P", (WIDTH, HEIGHT))])
    yield Case("GIF", "animation", FIRST, moving, few)
    for kind in ("WEBP", "AVIF"):
        exact = (
            {"lossless": True, "exact": True}
            if kind == "WEBP"
            else {"quality": 100, "subsampling": "4:4:4"}
        )
        name = {"WEBP": "WebP"}.get(kind, kind)
        off = 0 if kind == "WEBP" else 3
        yield Case(
            name,
            "lossless" if kind == "WEBP" else "RGB",
            AS_IT_IS,
            saved(RGB, kind, **exact),
            RGB,
            off,
        )
        yield Case(name, "lossy", AS_IT_IS, saved(RGB, kind, quality=90), RGB, LOSSY)
        yield Case(name, "RGBA", ON_WHITE, saved(rgba, kind, **exact), white(RGB), off)
        yield Case(name, "animation", FIRST, saved(picture, kind, **exact, **more), RGB, off)
    for tried, pixels in (("RGB", RGB), ("grey", GREY)):
        expected = pixels if pixels.ndim == 3 else three(pixels)
        yield Case("JPEG 2000", tried, AS_IT_IS, saved(pixels, "JPEG2000"), expected)
    yield Case("JPEG 2000", "RGBA", ON_WHITE, saved(rgba, "JPEG2000"), white(RGB))
    yield Case("JPEG 2000", "grey of 16 bits", SCALED, saved(GREY16, "JPEG2000"), scaled(GREY16))
    for tried, given in (("1 bit", Image.fromarray(BITS)), ("palette", palette), ("RGB", picture)):
        yield Case("BMP", tried, AS_IT_IS, saved(given, "BMP"), np.asarray(given.convert("RGB")))
    yield Case(
        "BMP", "32 bits", "its colours; the fourth byte is not read", saved(rgba, "BMP"), RGB
    )
    for tried, given in (("RGB", RGB), ("grey", GREY)):
        expected = given if given.ndim == 3 else three(given)
        yield Case("TGA", tried, AS_IT_IS, saved(given, "TGA"), expected)
        data = saved(given, "TGA", compression="tga_rle")
        yield Case("TGA", f"{tried}, run lengths", AS_IT_IS, data, expected)
    yield Case("TGA", "RGBA", ON_WHITE, saved(rgba, "TGA"), white(RGB))
    yield Case("QOI", "RGB", AS_IT_IS, saved(RGB, "QOI"), RGB)
    yield Case("QOI", "RGBA", ON_WHITE, saved(rgba, "QOI"), white(RGB))
    yield Case("PNM", "1 bit", AS_IT_IS, saved(BITS, "PPM"), three(BITS * np.uint8(255)))
    yield Case("PNM", "grey", AS_IT_IS, saved(GREY, "PPM"), three(GREY))
    yield Case("PNM", "RGB", AS_IT_IS, saved(RGB, "PPM"), RGB)
    for high in (65535, 4095):
        values = (GREY16 * (high / 65535)).astype(">u2")
        head = f"P5 {WIDTH} {HEIGHT} {high}\n".encode()
        tried = "grey of 16 bits" if high == 65535 else "grey up to 4095"
        rule = SCALED if high == 65535 else BY_MAXIMUM
        yield Case("PNM", tried, rule, head + values.tobytes(), scaled(values, high), high < 65535)
    head = f"P6 {WIDTH} {HEIGHT} 65535\n".encode()
    data = head + DEEP.astype(">u2").tobytes()
    yield Case(
        "PNM", "RGB of 16 bits", SCALED, head + RGB16.astype(">u2").tobytes(), scaled(RGB16), 1
    )
    yield Case("PNM", "RGB of 16 bits, of which 12 are used", RANGE, data, scaled(DEEP, 4095), 0,
               (0, 4095))  # fmt: skip
    unit = (GREY16 / 65535).astype(np.float32)
    yield Case("PNM", "floats (PFM)", UNIT, saved(unit, "PPM"), scaled(unit, 1))


def cases() -> list[Case]:
    """Every picture that is tried."""
    return [*jpegs(), *pngs(), *tiffs(), *others()]


def table(found: list[Case]) -> str:
    """A row for every kind of file and rule, with what was tried."""
    rows: dict[tuple[str, str], list[str]] = {}
    for case in found:
        rows.setdefault((case.kind, case.rule), []).append(case.tried)
    lines = ["| file | pictures tried | what comes out |", "|---|---|---|"]
    lines += [f"| {kind} | {'; '.join(tried)} | {rule} |" for (kind, rule), tried in rows.items()]
    return "\n".join(lines)


def page(found: list[Case]) -> str:
    """docs/data.md with the table."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table(found)}\n\n{END}{after}"


def main() -> int:
    """Try all pictures and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare the page, do not write it")
    check = parser.parse_args().check
    found = cases()
    wrong = [f"{c.kind}, {c.tried}: {problem}" for c in found if (problem := c.problem())]
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    if check:
        return int(page(found) != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(page(found), encoding="utf-8")
    print(f"{len(found)} pictures tried")
    return 0


if __name__ == "__main__":
    sys.exit(main())
