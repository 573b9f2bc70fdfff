"""The page is one file that needs nothing else and escapes what it shows; plots lose no peak."""

import csv
import io
import math
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

import vistill.analysis
from vistill.analysis.plot import Band, Curve, Intervals, plot
from vistill.analysis.report import (
    Section,
    Table,
    csv_text,
    file_name,
    write_beside,
    write_report,
)

CURVE = Curve("Loss <b>", "epochs", {"a": ([0, 1, 2], [3.0, 2.0, 1.0]), "b": ([0], [1])})
SECTION = Section(
    "Numbers <1>",
    text="a & b\n\nmore",
    facts={"state": "done <i>"},
    table=Table(["model", "top-1"], [["x", "50 %"], ["y", "60 %"]], best=1),
    curves=[CURVE],
    pictures=[("cell \udcff", b"\xff\xd8\xff fake jpeg")],
    code="a: 1 < 2",
)


def test_everything_is_inlined_and_escaped(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, "Title <t>", [SECTION, Section("Empty")])
    page = path.read_text()
    assert "Numbers &lt;1&gt;" in page
    assert "<p>a &amp; b</p>\n<p>more</p>" in page
    assert "<dt>state</dt><dd>done &lt;i&gt;</dd>" in page
    assert '<tr class="best"><td>y</td>' in page
    assert "<pre>a: 1 &lt; 2</pre>" in page
    assert page.count("<svg") == 1
    assert "Loss &lt;b&gt;" in page
    assert 'src="data:image/jpeg;base64,' in page
    assert not re.findall(r"<(?:b|i|t|script|link)\b", page)
    assert "Empty" not in page  # a heading over nothing
    addresses = re.findall(r'(?:src|href|xmlns)="([^"]+)"', page)
    assert {one for one in addresses if not one.startswith("data:")} == {
        "http://www.w3.org/2000/svg"  # names a language and is not fetched
    }


def test_plots_and_pictures_lie_beside_it(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "knn": 30.0}]
    write_beside(tmp_path / "report", [SECTION], ("metrics.csv", csv_text(rows)))
    names = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert names == ["loss-b.svg", "metrics.csv", "numbers-1-1.jpg"]
    alone = (tmp_path / "report" / "loss-b.svg").read_text()
    assert alone.startswith("<svg")
    assert "prefers-color-scheme: dark" in alone
    table = csv.DictReader(io.StringIO((tmp_path / "report" / "metrics.csv").read_text()))
    assert [*table] == [
        {"step": "1", "loss": "2.0", "knn": ""},
        {"step": "2", "loss": "", "knn": "30.0"},
    ]
    assert file_name("Loss: a/b <c>") == "loss-a-b-c"


def test_a_long_curve_is_short_and_keeps_its_peaks() -> None:
    n = 100_000
    values = [1.0] * n
    values[77_777] = 9.0
    drawn = plot(Curve("x", "epoch", {"a": (range(n), values)}))
    points = re.findall(r"([\d.]+),([\d.]+)", drawn.shapes[0].path)
    assert len(points) <= 401
    top = min(float(y) for _, y in points)
    assert top == pytest.approx(drawn.top + 0.037 * (drawn.bottom - drawn.top), abs=3)


def test_what_is_not_finite_is_left_out() -> None:
    y = [1.0, math.nan, math.inf, 2.0]
    drawn = plot(Curve("x", "epoch", {"a": ([0, 1, 2, 3], y), "b": ([0], [math.nan])}))
    assert [len(shape.dots) for shape in drawn.shapes] == [2, 0]


@pytest.mark.parametrize("scale", ["linear", "auto"])
def test_a_scale_is_logarithmic_where_values_differ_by_orders(scale: str) -> None:
    values = [10.0**-n for n in range(5)]
    drawn = plot(Curve("x", "epoch", {"a": (range(5), values)}, scale=scale))
    heights = [y for _, y in drawn.shapes[0].dots]
    gaps = [b - a for a, b in pairwise(heights)]
    even = max(gaps) - min(gaps) < 0.5
    assert even == (scale == "auto")
    at = {mark.text: mark.at for mark in drawn.y}
    assert ("0.01" in at) == even


@pytest.mark.parametrize(
    "values", [[], [0.0], [5.0, 5.0], [-1e-9, 1e-9], [1e12, 2e12], [-3.0, -1.0], [math.nan]]
)
def test_any_values_have_ticks_inside_the_axes(values: list[float]) -> None:
    drawn = plot(Curve("x", "epoch", {"a": (range(len(values)), values)}, scale="auto"))
    assert 1 <= len(drawn.y) <= 9
    assert all(drawn.top - 1 <= mark.at <= drawn.bottom + 1 for mark in drawn.y)
    assert all(drawn.left - 1 <= mark.at <= drawn.right + 1 for mark in drawn.x)


def test_bands_and_intervals_lie_where_their_values_do() -> None:
    band = Band([3, 4], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0])
    drawn = plot(Curve("x", "epoch", {"a": ([1, 2], [2.0, 2.0])}, {"a": band}))
    (shape,) = drawn.shapes
    assert shape.band.endswith("Z")
    assert len(re.findall(",", shape.band)) == 4
    assert f",{shape.dots[0][1]:g}" in shape.middle  # as high as the points that it goes on from
    rows = plot(Intervals("x", "%", {"a": (1.0, 2.0, 3.0), "b": (2.0, 2.5, 4.0)}))
    assert [mark.text for mark in rows.rows] == ["a", "b"]
    assert rows.shapes[0].dots[0][0] < rows.shapes[1].dots[0][0]


def test_many_lines_are_told_apart() -> None:
    lines = {f"term {n}": ([0, 1], [n, n]) for n in range(11)}
    drawn = plot(Curve("x", "epoch", lines))
    assert len({(shape.number, shape.dashed) for shape in drawn.shapes}) == 11
    assert [entry[-1] for entry in drawn.legend] == [*lines]
    assert all(x < drawn.width and y < drawn.height for x, y, *_ in drawn.legend)


def test_templates_are_part_of_the_package() -> None:
    folder = Path(vistill.analysis.__file__).parent / "templates"
    assert {path.name for path in folder.iterdir()} == {
        "colours.css", "plot.svg", "report.css", "report.html"
    }  # fmt: skip
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert any(one.startswith("jinja2") for one in project["project"]["dependencies"])
    # hatch takes every file of the package that git does not ignore
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["src/vistill"]}
