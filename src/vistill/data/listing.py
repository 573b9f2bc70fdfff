"""Lists of pictures or clips: text, CSV, TSV, JSON and JSON lines of paths."""

import csv
import json
import math
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from vistill.data.captions import Captions
from vistill.data.columns import (
    CAPTION_COLUMN,
    FRAME_COLUMNS,
    LABEL_COLUMN,
    PATH_COLUMN,
    SPAN_COLUMNS,
    Row,
    check_columns,
    in_frames,
    in_seconds,
    known_names,
    near_path,
    read_row,
    unclassed_notes,
)
from vistill.data.folder import read_file
from vistill.data.lines import QUOTE, Rows, each_row, holds, lines, plain_cells, plain_text, rows_of
from vistill.data.names import Coded, NamePacker, PackedNames
from vistill.data.source import (
    PICTURES,
    Media,
    NamedSource,
    Stretch,
    Unlabelled,
    encode_labels,
)
from vistill.errors import UserError

LEAST_TOLD = 20
"""Labelled samples from which on it is said that nearly each has a class of its own."""


class Listed(NamedTuple):
    """What one list says.

    Attributes:
        file: the list.
        rows: its lines.
        first: where the first of them stands, for the error that its file does not exist.
        labelled: whether the list has a place for labels.
        notes: on what of it is not read.
    """

    file: Path
    rows: Iterator[Row | Rows]
    first: str
    labelled: bool
    notes: list[str]


class ListSource(NamedSource):
    """Files, or folders of frames, named one by one.

    Only the first of them has to exist. Later missing ones count as broken: a list of millions is
    not worth a million look-ups.

    Args:
        name: of all lists together.
        lists: read one after the other.
        media: what the files are.
        root: where relative paths start; None: at each list's own folder.
    """

    def __init__(
        self,
        name: str,
        lists: Sequence[Listed],
        media: Media = PICTURES,
        root: str | os.PathLike[str] | None = None,
    ) -> None:
        folders = [os.path.abspath(one.file.parent) for one in lists]
        self._root = os.path.commonpath(folders) if root is None else os.path.abspath(root)
        paths, labels = NamePacker(), Coded()
        parts, by_frames = array("d"), bytearray()
        captions: list[tuple[str, ...]] = []
        firsts: list[tuple[int, str]] = []

        def add(row: Row, inner: str) -> None:
            paths.add(os.path.join(inner, row.path) if inner else row.path)
            labels.add(row.label or None)
            if row.part is not None:
                before = len(paths) - 1 - len(by_frames)
                parts.extend([math.nan] * 2 * before)
                parts.extend(row.part[:2])
                by_frames.extend([*bytes(before), row.part.unit == "frames"])
            if row.captions:
                captions.extend([()] * (len(paths) - 1 - len(captions)))
                captions.append(row.captions)

        for one, folder in zip(lists, folders, strict=True):
            inner = "" if root is not None else os.path.relpath(folder, self._root)
            inner = "" if inner == "." else inner
            start = len(paths)
            for rows in one.rows:
                if isinstance(rows, Rows) and not inner:
                    paths.add_block(rows.text, rows.ends)
                    labels.add_block(rows.labels, rows.codes)
                else:
                    for row in each_row([rows]):
                        add(row, inner)
            if len(paths) > start:
                firsts.append((start, one.first))
        super().__init__(name, paths.names(), media)
        if not len(self):
            raise UserError(f"'{name}' lists no {media.noun}s")
        after = len(self) - len(by_frames)
        self._cut = len(by_frames) > 0
        if self._cut:
            parts.extend([math.nan] * 2 * after)
        self._parts = np.frombuffer(parts).reshape(-1, 2)
        self._by_frames = np.frombuffer(bytes(by_frames) + bytes(after * self._cut), dtype=bool)
        self.captions = None
        if captions:
            self.captions = Captions(chain(captions, repeat((), len(self) - len(captions))))
        self.classes, self.labels = encode_labels(labels)
        meant = any(one.labelled for one in lists) or any(labels.texts)
        self.notes = list(dict.fromkeys(note for one in lists for note in one.notes))
        if meant:
            self.notes += unclassed_notes(labels, media)
        if self.classes is not None and self.labels is not None:
            known = int((self.labels >= 0).sum())
            if known >= LEAST_TOLD and known < 2 * len(self.classes):
                self.notes.append(
                    f"its labels tell {len(self.classes)} classes for {known} {media.noun}s; "
                    "captions and names of samples are no classes"
                )
        else:
            reason = "none of its labels is a class" if meant else "its lines have no label"
            self.unlabelled = Unlabelled(reason, meant)
        self._firsts, self._rooted = firsts, root is not None
        self.require_first()

    def read(self, i: int) -> bytes:
        return read_file(self.place(i))

    def place(self, i: int) -> str:
        return os.path.join(self._root, self.names[i])

    def span(self, i: int) -> Stretch | None:
        if not self._cut:
            return None
        start, end = self._parts[i].tolist()
        return None if math.isnan(start) else Stretch(start, end, self._unit(i))

    def sample_name(self, i: int) -> str:
        span = self.span(i)
        return self.names[i] + ("" if span is None else f" ({span})")

    def fingerprint(self) -> str:
        if not self._cut:
            return super().fingerprint()
        numbers = self._parts.tobytes()
        if self._by_frames.any():
            numbers += self._by_frames.tobytes()
        return f"{super().fingerprint()} cut {PackedNames([numbers.hex()]).digest()}"

    def _unit(self, i: int) -> Literal["s", "frames"]:
        return "frames" if self._by_frames[i] else "s"

    def require_first(self) -> None:
        """That the first file of every list is there.

        Raises:
            UserError: it is not.
        """
        for number, where in self._firsts:
            path, place = self.names[number], self.place(number)
            if os.path.isfile(place) or (self.media.noun == "clip" and os.path.isdir(place)):
                continue
            hint = ""
            if not os.path.isabs(path):
                hint = "; relative paths start at that root" if self._rooted else (
                    "; where relative paths start elsewhere than at the list, say so with root=DIR "
                    "(data.root in a run, --root of prepare)"
                )  # fmt: skip
            raise UserError(f"{where} lists '{path}', but there is no file '{place}'{hint}")


def read_text(file: Path, media: Media) -> Listed:
    """One path a line, or `path label`; of clips also `path start end label` in seconds, and
    `folder frames label` or `folder first frames label` of folders of frames.

    A path may hold spaces, and so may a label. Where there are tabs, they alone separate.
    """
    first = next((n for n, line in enumerate(_lines(file), 1) if line.strip()), 1)
    return Listed(file, _text_rows(file, media), f"'{file}' line {first}", False, [])


def _text_rows(file: Path, media: Media) -> Iterator[Row | Rows]:
    def read(number: int, line: str) -> Row | None:
        return _text_row(f"'{file}' line {number}", line.strip(), media) if line.strip() else None

    for found in lines(file):
        yield from rows_of(found, plain_text(found, media), read)


def _text_row(where: str, line: str, media: Media) -> Row:
    """The path is as long as possible: its last word ends like a picture or a video."""
    separator, words = " ", line.split(" ")
    if "\t" in line:
        separator, words = "\t", [cell.strip() for cell in line.split("\t")]
    for count in range(len(words), 0, -1):
        if media.holds(words[count - 1]):
            path, rest = separator.join(words[:count]), list(filter(None, words[count:]))
            return _file_row(where, path, rest, media)
    if media.noun == "clip":
        words = list(filter(None, words))
        for count in range(1, len(words)):
            if words[count].isdecimal():
                return _folder_row(where, " ".join(words[:count]), words[count:])
    also = " nor 'path start end label' nor 'folder frames label'" if media.noun == "clip" else ""
    raise UserError(f"{where} is neither a {media.noun}'s path nor 'path label'{also}: {line!r}")


def _file_row(where: str, path: str, rest: list[str], media: Media) -> Row:
    if media.noun == "clip":
        if rest == ["0", "-1"]:  # VideoMAE's lists: from frame 0 to the end
            return Row(path)
        if len(rest) > 2 and _is_number(rest[0]):
            part = in_seconds(where, rest[0], rest[1])
            return Row(path, _one_label(where, rest[2:]), part)
    return Row(path, _one_label(where, rest))


def _folder_row(where: str, path: str, rest: list[str]) -> Row:
    """`frames label`, or `first frames label` as mmaction writes it with an offset."""
    first, label = 0, rest[1:]
    if len(rest) > 2 and rest[1].isdecimal():
        first, rest, label = int(rest[0]), rest[1:], rest[2:]
    part = in_frames(where, first, first + int(rest[0])) if int(rest[0]) else None
    return Row(path, _one_label(where, label), part)


def _one_label(where: str, words: list[str]) -> str | None:
    if len(words) > 1 and all(word.removeprefix("-").isdecimal() for word in words):
        raise UserError(f"{where}: a sample has one class, and its labels are {', '.join(words)}")
    return " ".join(words) or None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def read_csv(file: Path, media: Media, separator: str = ",") -> Listed:
    """Columns by header, of which `path` has to be there; see `vistill.data.columns`.

    Without a header `path` or `path,label`, of clips also `path,start,end,label` in seconds. A file
    without a single separator is read as text.
    """
    rows = ((n, row) for n, row in _csv_rows(file, separator) if row)
    start, cells = next(rows, (0, []))
    if not start:
        raise UserError(f"'{file}' lists no {media.noun}s")
    head = known_names([cell.strip().lower() for cell in cells])
    if len(cells) == 1 and head[0] != PATH_COLUMN and all(len(row) == 1 for _, row in rows):
        return read_text(file, media)
    where, notes, headed = f"'{file}' line {start}", [], PATH_COLUMN in head
    if headed:
        notes = check_columns(where, head, media)
    else:
        head = _without_header(where, cells, media, separator)

    def read(number: int, row: list[str]) -> Row | None:
        if not row or (headed and number == start):
            return None
        if any(_swallows(cell, media) for cell in row):
            raise UserError(
                f"'{file}' line {number} ends a quotation that began lines before it and holds "
                f"other {media.noun}s: close the quote, or double quotes that are meant"
            )
        if len(row) > len(head) == 2 and head[1] == CAPTION_COLUMN:
            row = [row[0], f"{separator} ".join(row[1:])]  # Flickr's, where nothing is quoted
        if len(row) != len(head):
            raise UserError(f"'{file}' line {number} has {len(row)} columns, not {len(head)}")
        told = dict(zip(head, map(str.strip, row), strict=True))
        return read_row(f"'{file}' line {number}", told, media)

    def each() -> Iterator[Row | Rows]:
        special = {CAPTION_COLUMN, *SPAN_COLUMNS, *FRAME_COLUMNS}
        if special.intersection(head) or holds(file, QUOTE):
            read_rows = (read(n, row) for n, row in _csv_rows(file, separator))
            yield from (row for row in read_rows if row is not None)
            return
        path = head.index(PATH_COLUMN)
        label = head.index(LABEL_COLUMN) if LABEL_COLUMN in head else None
        for found in lines(file):
            some = found.behind(start if headed else 0)
            plain = plain_cells(some, ord(separator), len(head), path, label)
            yield from rows_of(some, plain, lambda n, line: read(n, _cells(line, separator)))

    begin = next((n for n, row in _csv_rows(file, separator) if row and n > start), start + 1)
    first = f"'{file}' line {begin if headed else start}"
    return Listed(file, each(), first, LABEL_COLUMN in head, notes)


def _cells(line: str, separator: str) -> list[str]:
    """The cells of a line without quotes."""
    return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])


def _swallows(cell: str, media: Media) -> bool:
    """Whether a quote that was never closed has made rows of a list part of a cell."""
    return "\n" in cell and any(
        media.holds(line.partition(",")[0].partition("\t")[0]) for line in cell.split("\n")[1:]
    )


def read_tsv(file: Path, media: Media) -> Listed:
    """As CSV, with tabs."""
    return read_csv(file, media, "\t")


def _without_header(where: str, row: list[str], media: Media, separator: str) -> list[str]:
    """The columns of a list that has no header, by its first line."""
    if not media.holds(row[0].strip()):
        raise UserError(
            f"{where} is neither a header with a column '{PATH_COLUMN}'{near_path(row)} nor a row "
            f"that starts with a {media.noun}'s path"
        )
    names = [PATH_COLUMN, LABEL_COLUMN]
    if media.noun == "clip" and len(row) == 4:
        names[1:1] = SPAN_COLUMNS
    if len(row) > len(names):
        known = [PATH_COLUMN, LABEL_COLUMN]
        if media.noun == "clip":
            known += [*SPAN_COLUMNS, *FRAME_COLUMNS]
        raise UserError(
            f"{where} has {len(row)} columns and no header; name them in its first line, of which "
            f"{', '.join(known)} are read"
        )
    return names[: len(row)]


def read_json_lines(file: Path, media: Media) -> Listed:
    """One object a line, with the columns of CSV as its fields."""
    notes: list[str] = []

    def read() -> Iterator[Row]:
        seen: set[tuple[str, ...]] = set()
        for number, line in enumerate(_lines(file), 1):
            if not line.strip():
                continue
            where = f"'{file}' line {number}"
            cells = _json_object(where, line)
            if tuple(cells) not in seen:
                seen.add(tuple(cells))
                notes.extend(check_columns(where, list(cells), media))
            yield read_row(where, cells, media)

    first = next((n for n, line in enumerate(_lines(file), 1) if line.strip()), 1)
    return Listed(file, read(), f"'{file}' line {first}", False, notes)


def read_json(file: Path, media: Media) -> Listed:
    """A list of such objects."""
    try:
        told = json.loads("".join(_lines(file)))
    except ValueError as error:
        raise UserError(f"'{file}' is no JSON: {error}") from error
    if not isinstance(told, list):
        raise UserError(f"'{file}' is no list of objects with a field '{PATH_COLUMN}'")
    items = [(f"'{file}' item {n}", item) for n, item in enumerate(told, 1)]
    rows = [(where, _known(where, item, json.dumps(item))) for where, item in items]
    notes: list[str] = []
    for fields in dict.fromkeys(tuple(cells) for _, cells in rows):
        where = next(where for where, cells in rows if tuple(cells) == fields)
        notes += check_columns(where, list(fields), media)
    found = (read_row(where, cells, media) for where, cells in rows)
    return Listed(file, found, f"'{file}' item 1", False, notes)


def _json_object(where: str, line: str) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is no JSON: {error}") from error
    return _known(where, told, line.strip())


def _known(where: str, told: Any, shown: str) -> dict[str, Any]:
    """The fields of an object by the names of columns."""
    if isinstance(told, dict):
        cells = dict(zip(known_names(list(told)), told.values(), strict=True))
        if PATH_COLUMN in cells:
            return cells
    near = near_path(told) if isinstance(told, dict) else ""
    raise UserError(f"{where} is no object with a field '{PATH_COLUMN}'{near}: {shown}")


def _lines(file: Path) -> Iterator[str]:
    try:
        with open(file, encoding="utf-8-sig", newline=None) as text:
            yield from text
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{file}' cannot be read as text: {error}") from error


def _csv_rows(file: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(_lines(file), delimiter=separator, skipinitialspace=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"'{file}' line {reader.line_num}: {error}") from error


READERS: dict[str, Callable[[Path, Media], Listed]] = {
    ".txt": read_text,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".json": read_json,
    ".jsonl": read_json_lines,
}
"""Lists by the endings of their names."""
