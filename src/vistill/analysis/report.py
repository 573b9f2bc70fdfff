"""One self-contained HTML page, by the templates beside this file: facts, tables, curves, pictures.

Light by itself: no script, no font, no other file; plots are SVG in the colours of the page.
"""

import base64
import csv
import functools
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.analysis.plot import Curve, Intervals, plot
from vistill.files import write_atomic

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; `best` is the row to stress."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: int | None = None


@dataclass(frozen=True)
class Section:
    """A heading with any of what stands below it, in this order.

    Attributes:
        title: of the heading.
        text: paragraphs, with an empty line between them.
        facts: what something is, by its name.
        table: of text.
        curves: plots.
        pictures: captions and JPEGs or PNGs.
        code: text to copy or to look up, line by line.
    """

    title: str
    text: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    table: Table | None = None
    curves: Sequence[Curve | Intervals] = ()
    pictures: Sequence[tuple[str, bytes]] = ()
    code: str = ""


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the page; pictures are data URIs, so it needs no other file."""
    page = _environment().get_template("report.html")
    shown = [section for section in sections if section != Section(section.title)]
    write_atomic(path, page.render(title=_shown(title), sections=shown))


def write_beside(
    folder: Path, sections: Sequence[Section], table: tuple[str, str] | None = None
) -> None:
    """Write the plots of a page as SVG and its pictures as JPEG or PNG, one file each.

    Args:
        folder: is made where it is missing; files of the same names are replaced.
        sections: of the page.
        table: name and content of a CSV file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    alone = _environment().get_template("plot.svg")
    for section in sections:
        for curve in section.curves:
            text = alone.render(plot=plot(curve), alone=True)
            write_atomic(folder / f"{file_name(curve.title)}.svg", text)
        for number, (_, data) in enumerate(section.pictures, start=1):
            name = f"{file_name(section.title)}-{number}.{_kind(data).replace('jpeg', 'jpg')}"
            write_atomic(folder / name, data)
    if table is not None:
        write_atomic(folder / table[0], table[1])


def beside(page: Path) -> Path:
    """The folder of what lies beside a page: `report` of `report.html`, else `NAME-report`."""
    return page.with_name("report" if page.stem == "report" else f"{page.stem}-report")


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under a header of all their keys, in the order in which they come up."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    table = csv.DictWriter(text, keys, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def file_name(title: str) -> str:
    """A title as the name of a file."""
    return re.sub(r"[^\w.]+", "-", title.lower()).strip("-.")[:80] or "plot"


@functools.cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"picture": _picture, "plot": plot, "shown": _shown}
    return environment


def _picture(data: bytes) -> str:
    return f"data:image/{_kind(data)};base64,{base64.b64encode(data).decode()}"


def _kind(data: bytes) -> str:
    return "png" if data.startswith(b"\x89PNG") else "jpeg"


def _shown(text: str) -> str:
    """Text for a page; names that are no UTF-8 lose what cannot be shown."""
    return text.encode("utf-8", "replace").decode("utf-8")
