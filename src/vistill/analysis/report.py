"""One self-contained HTML page about finished runs: table, curves, pictures, cost."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vistill.files import write_atomic

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --accent: #2a7f62; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid var(--line) }
tr.best td { font-weight: 600; color: var(--accent) }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1rem }
.curves svg { width: 100%; height: auto; background: #fff; border-radius: 6px }
.pictures { display: flex; flex-wrap: wrap; gap: .6rem }
figure { margin: 0; text-align: center; font-size: .75rem } figure img { border-radius: 4px }
.note { color: #777; font-size: .9rem }
"""


@dataclass(frozen=True)
class Curve:
    """Numbers over a common axis.

    Attributes:
        title: heading of the plot.
        x_label: what the axis counts.
        lines: name of each line → (x, y) values.
    """

    title: str
    x_label: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; `best` is the row to stress."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: int | None = None


@dataclass(frozen=True)
class Section:
    """A heading with any of text, table, curves and captioned JPEG or PNG pictures."""

    title: str
    text: str = ""
    table: Table | None = None
    curves: Sequence[Curve] = ()
    pictures: Sequence[tuple[str, bytes]] = field(default=())


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the page; plots are inlined SVG and pictures data URIs, so it needs no other file."""
    body = "".join(_section(section) for section in sections)
    write_atomic(
        path,
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}'
        f'</title><meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><h1>{html.escape(title)}</h1>{body}</body></html>\n",
    )


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    if section.table is not None:
        parts.append(_table(section.table))
    if section.curves:
        plots = "".join(_svg(curve) for curve in section.curves)
        parts.append(f'<div class="curves">{plots}</div>')
    if section.pictures:
        figures = "".join(_figure(caption, data) for caption, data in section.pictures)
        parts.append(f'<div class="pictures">{figures}</div>')
    return "".join(parts)


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    rows = []
    for number, row in enumerate(table.rows):
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        rows.append(f"<tr{' class=best' if number == table.best else ''}>{cells}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _figure(caption: str, data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    name = html.escape(caption)
    return f'<figure><img src="{source}" alt="{name}" height="96"><br>{name}</figure>'


def _svg(curve: Curve) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.add_subplot()
    for name, (x, y) in curve.lines.items():
        axes.plot(x, y, label=name, linewidth=1.6)
    axes.set(title=curve.title, xlabel=curve.x_label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curve.lines) > 1:
        axes.legend(frameon=False)
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
