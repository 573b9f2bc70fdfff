"""Pictures of more than 8 bits: what fills little of its range is told and can be spread."""

from pathlib import Path

import numpy as np
import pytest
from picture_kinds import kinds

from vistill.config.loading import build_config
from vistill.config.overrides import parse_overrides
from vistill.config.schema import RunConfig
from vistill.data import BrokenImage, Decoding, Source, decode_image, open_source, require_readable
from vistill.errors import UserError


def folder(root: Path, *pictures: bytes, ending: str = "png") -> Path:
    root.mkdir()
    for number, data in enumerate(pictures):
        (root / f"{number}.{ending}").write_bytes(data)
    return root


def opened(root: Path, *pictures: bytes, chosen: tuple[float, float] | None = None) -> Source:
    return open_source(str(folder(root, *pictures)), decoding=Decoding(chosen))


def grey(low: int, high: int) -> bytes:
    """A 16-bit PNG with values from `low` to `high`."""
    values = np.linspace(low, high, 60).reshape(6, 10).round().astype(np.uint16)
    return kinds.png(values, 16, 0)


@pytest.mark.parametrize(
    ("low", "high", "suggested"),
    [
        (0, 4095, "[0,4095]"),
        (7, 3001, "[0,4095]"),
        (0, 1023, "[0,1023]"),
        (20, 1024, "[0,2047]"),
        (30000, 30500, "[30000,30500]"),
        (0, 16383, "[0,16383]"),
    ],
)
@pytest.mark.parametrize("colour", [False, True])
def test_values_that_fill_little_are_told_and_spread(
    tmp_path: Path, low: int, high: int, suggested: str, colour: bool
) -> None:
    data = grey(low, high)
    if colour:
        values = np.linspace(low, high, 60).round().astype(np.uint16).reshape(2, 10, 3)
        data = kinds.png(values, 16, 2)
    dark = decode_image(data)
    assert int(dark.max()) - int(dark.min()) <= 64
    (note,) = require_readable(opened(tmp_path / "x", data, data))
    assert note == (
        f"the pictures looked at hold values from {low} to {high} only, and 0 is black and 65535 "
        f"white; data.value_range={suggested} would spread them"
    )
    first, last = map(float, suggested.strip("[]").split(","))
    spread = decode_image(data, (first, last))
    assert int(spread.max()) == round(255 * (high - first) / (last - first))
    assert require_readable(opened(tmp_path / "y", data, chosen=(first, last))) == []


def test_the_usual_pictures_are_not_spoken_of(tmp_path: Path) -> None:
    dark = kinds.saved(np.zeros((8, 8, 3), np.uint8), "PNG")
    assert require_readable(opened(tmp_path / "8 bits", dark)) == []
    assert require_readable(opened(tmp_path / "16 bits", grey(0, 65535), grey(0, 100))) == []
    source = opened(tmp_path / "chosen", dark, chosen=(0, 4095))
    assert require_readable(source, section="") == [
        "value_range has no use: no picture looked at has more than 8 bits per value"
    ]


def test_values_beyond_the_range_are_told(tmp_path: Path) -> None:
    assert require_readable(opened(tmp_path / "x", grey(0, 9000), chosen=(0, 4095))) == [
        "the pictures looked at hold values from 0 to 9000; 0 is black and 4095 white, and values "
        "beyond count as these"
    ]


def test_values_without_a_known_scale_suggest_one(tmp_path: Path) -> None:
    heights = np.linspace(-100, 800, 60).reshape(6, 10).astype(np.float32)
    data = kinds.tiff(heights)
    with pytest.raises(BrokenImage, match=r"values from -100 to 800 have no known scale"):
        decode_image(data)
    root = folder(tmp_path / "x", data, data, ending="tif")
    with pytest.raises(UserError, match=r"; data.value_range=\[-100,800\] would spread them$"):
        require_readable(open_source(str(root)))
    source = open_source(str(root), decoding=Decoding((-100, 800)))
    assert require_readable(source) == []
    unit = kinds.tiff((heights - heights.min()) / 900)
    (root / "0.tif").write_bytes(unit)
    (note,) = require_readable(open_source(str(root)))
    assert note.startswith("the pictures looked at hold values from -100 to 800; 0 is black and 1 ")
    assert note.endswith("beyond are broken; data.value_range=[-100,800] would spread them")


def test_a_picture_of_one_value_suggests_nothing(tmp_path: Path) -> None:
    (note,) = require_readable(opened(tmp_path / "x", grey(5000, 5000)))
    assert note.endswith("hold values from 5000 to 5000 only, and 0 is black and 65535 white")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.value_range=[4095,0]", "must rise from black to white, not 4095 to 0"),
        ("data.value_range=[1,1]", "must rise from black to white"),
        ("data.value_range=[0,.inf]", "finite number"),
        ("data.value_range=4095", "data.value_range"),
    ],
)
def test_ranges_that_are_none(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_config(RunConfig, {}, parse_overrides([word]))


@pytest.mark.parametrize("word", ["data.value_range=[0,4095]", "data.allow_truncated=true"])
def test_settings_of_pictures_are_refused_for_clips(word: str) -> None:
    with pytest.raises(UserError, match="is about pictures; leave it out for clips"):
        build_config(RunConfig, {}, parse_overrides([word, "data.frames=16"]))
