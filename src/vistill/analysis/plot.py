"""Plots as plain geometry, which a template turns into SVG: no library, some kB each."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Scale = Literal["linear", "auto"]

COLOURS = 8
"""Lines that are told apart by colour; further ones are dashed."""
_WIDTH, _HEIGHT = 400.0, 200.0
_LEFT, _RIGHT, _TOP, _BELOW = 52.0, 12.0, 28.0, 40.0
_ROW = 17.0
_BINS = 200
_FEW = 40
"""Points that are drawn as dots, too."""
_LETTER = 6.6
_STEEP = 50
"""Largest over smallest value from which a plot is logarithmic, where it may be."""
_NO_MARKS = 1e-9


@dataclass(frozen=True)
class Band:
    """What is expected, between what it may be: equally many of each."""

    x: Sequence[float]
    low: Sequence[float]
    middle: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Curve:
    """Numbers over a common axis.

    Attributes:
        title: heading of the plot.
        x_label: what the axis counts.
        lines: name of each line → (x, y) values; what is not finite is left out.
        bands: by the name of a line, what is to come of it.
        scale: of the values; `auto` is logarithmic where they differ by orders of magnitude.
    """

    title: str
    x_label: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    bands: Mapping[str, Band] = field(default_factory=dict)
    scale: Scale = "linear"


@dataclass(frozen=True)
class Intervals:
    """Values with their intervals, one below the other.

    Attributes:
        title: heading of the plot.
        x_label: what the axis counts.
        rows: name → (low, value, high).
    """

    title: str
    x_label: str
    rows: Mapping[str, tuple[float, float, float]]


class Mark(NamedTuple):
    """A tick: where, and what it says."""

    at: float
    text: str


class Shape(NamedTuple):
    """A line: its colour, whether it is dashed, its path, its dots, and the path of its band."""

    number: int
    dashed: bool
    path: str
    dots: Sequence[tuple[float, float]]
    band: str = ""
    middle: str = ""


class Plot(NamedTuple):
    """What is drawn, in units of the picture.

    Attributes:
        title, x_label: words.
        width, height: of all.
        left, right, top, bottom: edges of the axes.
        x, y: ticks.
        shapes: the lines.
        legend: (left, middle, number of the line, dashed, name).
        rows: names on the left, of intervals.
    """

    title: str
    x_label: str
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x: Sequence[Mark]
    y: Sequence[Mark]
    shapes: Sequence[Shape]
    legend: Sequence[tuple[float, float, int, bool, str]]
    rows: Sequence[Mark] = ()


class _Axis:
    """From values to units of the picture."""

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool) -> None:
        self.log = log
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if log:
            low, high = math.log10(low), math.log10(high)
        room = 0.04 * (high - low) if high > low else max(abs(high) * 0.1, _NO_MARKS)
        self.low, self.high = low - room, high + room
        if not log and low >= 0:
            self.low = max(self.low, 0.0)
        self.start, self.scale = start, (end - start) / (self.high - self.low)

    def __call__(self, value: float) -> float:
        shown = math.log10(value) if self.log else value
        return round(self.start + (shown - self.low) * self.scale, 1)

    def marks(self, wanted: int) -> list[Mark]:
        """Ticks at round numbers."""
        if self.log and self.high - self.low >= 1.3:
            powers = range(math.ceil(self.low), math.floor(self.high) + 1)
            every = max(1, len(powers) // wanted)
            return [Mark(self(10.0**power), _number(10.0**power)) for power in powers[::every]]
        low, high = (10**self.low, 10**self.high) if self.log else (self.low, self.high)
        step = _round_step((high - low) / wanted)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        values = (number * step for number in range(first, last + 1))
        return [Mark(self(value), _number(value)) for value in values if value > 0 or not self.log]


def plot(what: Curve | Intervals) -> Plot:
    """Where everything of a plot is drawn."""
    return _intervals(what) if isinstance(what, Intervals) else _curve(what)


def _curve(curve: Curve) -> Plot:
    lines = {name: _finite(*line) for name, line in curve.lines.items()}
    bands = {name: band for name, band in curve.bands.items() if lines.get(name)}
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    for band in bands.values():
        xs, ys = [*xs, *band.x], [*ys, *band.low, *band.high]
    log = curve.scale == "auto" and bool(ys) and min(ys) > 0 and max(ys) > _STEEP * min(ys)
    x_axis = _Axis(xs, _LEFT, _WIDTH - _RIGHT, log=False)
    y_axis = _Axis(ys, _TOP + _HEIGHT, _TOP, log=log)
    legend, rows = _legend(list(lines)) if len(lines) > 1 else ([], 0)
    shapes = []
    for number, (name, points) in enumerate(lines.items()):
        drawn = [(x_axis(x), y_axis(y)) for x, y in _thinned(points)]
        area, middle = "", ""
        if name in bands:
            band = bands[name]
            upper = [(x_axis(x), y_axis(y)) for x, y in zip(band.x, band.high, strict=True)]
            lower = [(x_axis(x), y_axis(y)) for x, y in zip(band.x, band.low, strict=True)]
            area = _path([*upper, *reversed(lower)]) + "Z"
            middle = _path([(x_axis(x), y_axis(y)) for x, y in zip(band.x, band.middle,
                                                                    strict=True)])  # fmt: skip
        dots = drawn if len(drawn) <= _FEW else []
        dashed = number >= COLOURS
        shapes.append(Shape(number % COLOURS, dashed, _path(drawn), dots, area, middle))
    bottom = _TOP + _HEIGHT
    return Plot(
        curve.title,
        curve.x_label,
        _WIDTH,
        bottom + _BELOW + rows * _ROW,
        _LEFT,
        _WIDTH - _RIGHT,
        _TOP,
        bottom,
        x_axis.marks(5),
        y_axis.marks(5),
        shapes,
        [(x, bottom + _BELOW + row * _ROW + 8, n % COLOURS, n >= COLOURS, name)
         for n, (x, row, name) in enumerate(legend)],
    )  # fmt: skip


def _intervals(what: Intervals) -> Plot:
    """A row of its own for every name, above its interval."""
    values = [value for row in what.rows.values() for value in row]
    left, height = 14.0, 32.0
    axis = _Axis(values, left, _WIDTH - _RIGHT - 6, log=False)
    bottom = _TOP + height * len(what.rows)
    shapes, rows = [], []
    for number, (name, (low, value, high)) in enumerate(what.rows.items()):
        y = _TOP + height * number + 24
        path = _path([(axis(low), y), (axis(high), y)])
        shapes.append(Shape(0, False, path, [(axis(value), y)]))
        rows.append(Mark(y - 9, _short(name, _WIDTH - left)))
    marks = axis.marks(6)
    edges = (left, _WIDTH - _RIGHT, _TOP, bottom)
    return Plot(what.title, what.x_label, _WIDTH, bottom + _BELOW, *edges, marks, [], shapes, [],
                rows)  # fmt: skip


def _finite(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    return [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lowest and the highest of every so many neighbours: no peak is lost."""
    if len(points) <= 2 * _BINS:
        return list(points)
    found = []
    for number in range(_BINS):
        first, last = (len(points) * n // _BINS for n in (number, number + 1))
        part = points[first:last]
        extremes = min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])
        found += sorted(set(extremes))
    return found


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in points) if points else ""


def _legend(names: Sequence[str]) -> tuple[list[tuple[float, int, str]], int]:
    """(left, row, name) of every name, and how many rows there are."""
    found, x, row = [], _LEFT, 0
    for name in names:
        shown = _short(name, _WIDTH - _LEFT - 30)
        width = 30 + _LETTER * len(shown)
        if x > _LEFT and x + width > _WIDTH:
            x, row = _LEFT, row + 1
        found.append((x, row, shown))
        x += width
    return found, row + 1


def _short(name: str, width: float) -> str:
    most = int(width / _LETTER)
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _round_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not less."""
    power = 10.0 ** math.floor(math.log10(max(least, 1e-300)))
    return next(step for step in _steps(power) if step >= least * (1 - 1e-9))


def _steps(power: float) -> Iterator[float]:
    yield from (power, 2 * power, 5 * power, 10 * power)


def _number(value: float) -> str:
    size = abs(value)
    if size < 1e-12:
        return "0"
    if size >= 1e6 or size < 1e-3:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.6g}" if size < 1e4 else f"{value:,.0f}"
