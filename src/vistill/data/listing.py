"""Lists of pictures or clips: text and CSV files of paths."""

import csv
import math
import os
import sys
from array import array
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vistill.data.folder import read_file
from vistill.data.source import PICTURES, Media, NamedSource, PackedNames, encode_labels
from vistill.errors import UserError

PATH_COLUMN = "path"
LABEL_COLUMN = "label"
SPAN_COLUMNS = ("start", "end")


class Row(NamedTuple):
    """One line of a list: a file, what it shows, and from when to when in seconds."""

    path: str
    label: str | None = None
    span: tuple[float, float] | None = None


class ListSource(NamedSource):
    """Files named one by one; relative paths start at the list's own folder.

    Args:
        file: the list.
        rows: one per sample.
        first: where the first row stands, for the error that it does not exist. Later missing
            files count as broken: a list of millions is not worth a million look-ups.
        media: what the files are.
    """

    def __init__(
        self, file: Path, rows: Iterator[Row], first: str, media: Media = PICTURES
    ) -> None:
        labels: list[str | None] = []
        spans = array("d")

        def paths() -> Iterator[str]:
            for row in rows:
                labels.append(sys.intern(row.label) if row.label else None)
                spans.extend(row.span or (math.nan, math.nan))
                yield row.path

        super().__init__(str(file), PackedNames(paths()), media)
        if not len(self):
            raise UserError(f"'{file}' lists no {media.noun}s")
        self._root = os.path.abspath(file.parent)
        self._spans = np.frombuffer(spans).reshape(-1, 2)
        self._cut = not np.isnan(self._spans).all()
        self.classes, self.labels = encode_labels(labels)
        start = os.path.join(self._root, self.names[0])
        if not os.path.isfile(start):
            raise UserError(f"{first} lists '{self.names[0]}', but there is no file '{start}'")

    def read(self, i: int) -> bytes:
        return read_file(self.place(i))

    def place(self, i: int) -> str:
        return os.path.join(self._root, self.names[i])

    def span(self, i: int) -> tuple[float, float] | None:
        start, end = self._spans[i].tolist()
        return None if math.isnan(start) else (start, end)

    def sample_name(self, i: int) -> str:
        span = self.span(i)
        return self.names[i] + ("" if span is None else f" ({span[0]:g} s to {span[1]:g} s)")

    def fingerprint(self) -> str:
        if not self._cut:
            return super().fingerprint()
        spans = PackedNames([self._spans.tobytes().hex()])
        return f"{super().fingerprint()} cut {spans.digest()}"


def open_text(file: Path, media: Media = PICTURES) -> ListSource:
    """One path a line, or `path label`; of clips also `path start end label` in seconds. A path may
    hold spaces."""
    lines = [line for line in enumerate(_lines(file), 1) if line[1].strip()]
    first = f"'{file}' line {lines[0][0] if lines else 1}"
    rows = (_text_row(file, n, line.strip(), media) for n, line in lines)
    return ListSource(file, rows, first, media)


def _text_row(file: Path, number: int, line: str, media: Media) -> Row:
    if media.holds(line):
        return Row(line)
    words = line.rsplit(maxsplit=1)
    if len(words) == 2 and media.holds(words[0]):
        return Row(words[0], words[1])
    words = line.rsplit(maxsplit=3)
    if media.noun == "clip" and len(words) == 4 and media.holds(words[0]):
        return Row(words[0], words[3], _span(file, number, words[1], words[2]))
    also = " nor 'path start end label'" if media.noun == "clip" else ""
    raise UserError(
        f"'{file}' line {number} is neither a {media.noun}'s path nor 'path label'{also}: {line!r}"
    )


def _span(file: Path, number: int, start: str, end: str) -> tuple[float, float]:
    """Start and end in seconds, from words."""
    try:
        span = float(start), float(end)
    except ValueError:
        raise UserError(
            f"'{file}' line {number}: start and end must be seconds, not {start!r} and {end!r}"
        ) from None
    if not 0 <= span[0] < span[1] < math.inf:
        raise UserError(f"'{file}' line {number}: from {start} s to {end} s is no stretch of time")
    return span


def open_csv(file: Path, media: Media = PICTURES) -> ListSource:
    """Columns `path` and `label` by header, or path and optional label without one.

    Of clips also `start` and `end`, without header as `path,start,end,label`. A file without a
    single comma is read as text.
    """
    rows = [(n, row) for n, row in _csv_rows(file) if row]
    if not rows:
        raise UserError(f"'{file}' lists no {media.noun}s")
    head = [cell.strip() for cell in rows[0][1]]
    if all(len(row) == 1 for _, row in rows) and head[0] != PATH_COLUMN:
        return open_text(file, media)
    columns = _columns(file, rows[0][0], head, media)
    if PATH_COLUMN in head:
        rows = rows[1:]

    def read() -> Iterator[Row]:
        for number, row in rows:
            if len(row) != len(head):
                raise UserError(f"'{file}' line {number} has {len(row)} columns, not {len(head)}")
            cells = {name: row[place].strip() for name, place in columns.items()}
            if not cells[PATH_COLUMN]:
                raise UserError(f"'{file}' line {number} has no path")
            span = None
            if "start" in cells:
                span = _span(file, number, cells["start"], cells["end"])
            yield Row(cells[PATH_COLUMN], cells.get(LABEL_COLUMN), span)

    return ListSource(file, read(), f"'{file}' line {rows[0][0] if rows else 2}", media)


def _columns(file: Path, number: int, head: list[str], media: Media) -> dict[str, int]:
    """Where path, label, start and end stand, by the first line."""
    names = [PATH_COLUMN, LABEL_COLUMN]
    cut = media.noun == "clip" and (len(head) == 4 or PATH_COLUMN in head)
    if cut:
        names[1:1] = SPAN_COLUMNS
    if PATH_COLUMN in head:
        found = {name: head.index(name) for name in names if name in head}
        if len(set(SPAN_COLUMNS) & set(found)) == 1:
            raise UserError(f"'{file}' line {number} has a column start or end without the other")
        return found
    if not media.holds(head[0]):
        raise UserError(
            f"'{file}' line {number} is neither a header with a column '{PATH_COLUMN}'"
            f"{near_column(head)} nor a row that starts with a {media.noun}'s path"
        )
    if len(head) > len(names):
        raise UserError(
            f"'{file}' has {len(head)} columns and no header; name them in its first line "
            f"({','.join(names)})"
        )
    return {name: place for place, name in enumerate(names[: len(head)])}


def near_column(columns: list[str]) -> str:
    """`did you mean` for a misspelt column of paths."""
    near = get_close_matches(PATH_COLUMN, columns, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _lines(file: Path) -> Iterator[str]:
    try:
        with open(file, encoding="utf-8-sig", newline=None) as text:
            yield from text
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{file}' cannot be read as text: {error}") from error


def _csv_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(_lines(file), skipinitialspace=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"'{file}' line {reader.line_num}: {error}") from error
