"""A look at a few pictures before the work: can they be read, and are their values well spread?"""

import math
from typing import NamedTuple

from vistill.data.broken import BrokenImage
from vistill.data.decode import EndMissing, decode_image, wide_values
from vistill.data.source import Source
from vistill.errors import UserError

SAMPLED = 8
SPARSE = 4
"""Values that fill less than this part of the range are told: those of 12 bits fill a sixteenth."""


def require_readable(source: Source, section: str = "data.") -> list[str]:
    """Decode a few pictures from all over the source.

    Args:
        source: of pictures.
        section: of the settings, for what is told.

    Returns:
        Sentences on how their values are read, where that may surprise.

    Raises:
        UserError: none of them can be read.
    """
    told: list[str] = []
    seen: list[Seen] = []
    sampled = sorted({n * len(source) // SAMPLED for n in range(SAMPLED)})
    for i in sampled:
        try:
            data = source.read(i)
            wide = wide_values(data)
            if wide is not None and (extent := wide.extent()) is not None:
                seen.append(Seen(*extent, *wide.usual))
            decode_image(data, source.decoding.value_range)
        except BrokenImage as error:
            if not (isinstance(error, EndMissing) and source.decoding.allow_truncated):
                told.append(f"{source.sample_name(i)} ({error})")
    range_key = f"{section}value_range"
    if len(told) == len(sampled):
        raise UserError(
            f"none of {len(told)} pictures tried in '{source.name}' can be read: {', '.join(told)}"
            + (_better(_together(seen), range_key) if seen else "")
        )
    chosen = source.decoding.value_range
    if seen:
        return _spread(_together(seen), chosen, range_key)
    if chosen is not None:
        return [f"{range_key} has no use: no picture looked at has more than 8 bits per value"]
    return []


class Seen(NamedTuple):
    """The smallest and the largest number of a picture, and those that are usually black and
    white."""

    low: float
    high: float
    black: float
    white: float


def _together(seen: list[Seen]) -> Seen:
    lows, highs, blacks, whites = zip(*seen, strict=True)
    return Seen(min(lows), max(highs), min(blacks), max(whites))


def _spread(seen: Seen, chosen: tuple[float, float] | None, key: str) -> list[str]:
    """What is to be told of numbers that fill little of their range, or more than it."""
    black, white = chosen or (seen.black, seen.white)
    held = f"the pictures looked at hold values from {_number(seen.low)} to {_number(seen.high)}"
    scale = f"{_number(black)} is black and {_number(white)} white"
    if seen.low < black or seen.high > white:
        fate = "are broken" if chosen is None else "count as these"
        better = _better(seen, key) if chosen is None else ""
        return [f"{held}; {scale}, and values beyond {fate}{better}"]
    if seen.high - seen.low < (white - black) / SPARSE:
        return [f"{held} only, and {scale}{_better(seen, key)}"]
    return []


def _number(value: float) -> str:
    return f"{value:.10g}"


def _better(seen: Seen, key: str) -> str:
    """A range that would spread the values."""
    low, high = (float(f"{value:.4g}") for value in (seen.low, seen.high))
    if seen.white > 1 and 0 <= seen.low < seen.high / SPARSE:  # as a camera of so many bits gives
        low, high = 0, 2 ** math.ceil(math.log2(seen.high + 1)) - 1
    return f"; {key}=[{_number(low)},{_number(high)}] would spread them" if low < high else ""
