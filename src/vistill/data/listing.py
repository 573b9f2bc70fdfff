"""Lists of pictures: text and CSV files of paths; Parquet files of paths or of encoded pictures."""

import csv
import os
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from vistill.data.broken import BrokenImage
from vistill.data.folder import read_file
from vistill.data.source import NamedSource, PackedNames, encode_labels, is_picture
from vistill.errors import UserError

PATH_COLUMN = "path"
LABEL_COLUMN = "label"


class ListSource(NamedSource):
    """Pictures named one by one; relative paths start at the list's own folder.

    Args:
        file: the list.
        rows: path and label (None: unknown) of every picture.
        first: where the first row stands, for the error that it does not exist. Later missing
            pictures count as broken: a list of millions is not worth a million look-ups.
    """

    def __init__(self, file: Path, rows: Iterator[tuple[str, str | None]], first: str) -> None:
        labels: list[str | None] = []

        def paths() -> Iterator[str]:
            for path, label in rows:
                labels.append(sys.intern(label) if label else None)
                yield path

        super().__init__(str(file), PackedNames(paths()))
        if not len(self):
            raise UserError(f"'{file}' lists no pictures")
        self._root = os.path.abspath(file.parent)
        self.classes, self.labels = encode_labels(labels)
        start = os.path.join(self._root, self.names[0])
        if not os.path.isfile(start):
            raise UserError(f"{first} lists '{self.names[0]}', but there is no file '{start}'")

    def read(self, i: int) -> bytes:
        return read_file(os.path.join(self._root, self.names[i]))


def open_text(file: Path) -> ListSource:
    """One path a line, or `path label`; a path may hold spaces."""
    lines = [line for line in enumerate(_lines(file), 1) if line[1].strip()]
    first = f"'{file}' line {lines[0][0] if lines else 1}"
    return ListSource(file, (_path_and_label(file, n, line.strip()) for n, line in lines), first)


def _path_and_label(file: Path, number: int, line: str) -> tuple[str, str | None]:
    if is_picture(line):
        return line, None
    path, _, label = line.replace("\t", " ").rpartition(" ")
    if is_picture(path.strip()):
        return path.strip(), label
    raise UserError(
        f"'{file}' line {number} is neither a picture's path nor 'path label': {line!r}"
    )


def open_csv(file: Path) -> ListSource:
    """Columns `path` and `label` by header, or path and optional label without one."""
    rows = [(n, row) for n, row in _csv_rows(file) if row]
    if not rows:
        raise UserError(f"'{file}' lists no pictures")
    head = [cell.strip() for cell in rows[0][1]]
    where, what = 0, 1
    if PATH_COLUMN in head:
        where = head.index(PATH_COLUMN)
        what = head.index(LABEL_COLUMN) if LABEL_COLUMN in head else -1
        rows = rows[1:]
    elif not is_picture(head[0]):
        raise UserError(
            f"'{file}' line {rows[0][0]} is neither a header with a column '{PATH_COLUMN}'"
            f"{_near(head)} nor a row that starts with a picture's path"
        )
    elif len(head) > 2:
        raise UserError(
            f"'{file}' has {len(head)} columns and no header; name them in its first line "
            f"({PATH_COLUMN},{LABEL_COLUMN})"
        )
    width = len(head)

    def read() -> Iterator[tuple[str, str | None]]:
        for number, row in rows:
            if len(row) != width:
                raise UserError(f"'{file}' line {number} has {len(row)} columns, not {width}")
            if not row[where].strip():
                raise UserError(f"'{file}' line {number} has no path")
            yield row[where].strip(), row[what].strip() if 0 <= what < width else None

    return ListSource(file, read(), f"'{file}' line {rows[0][0] if rows else 2}")


class ParquetImages(NamedSource):
    """Encoded pictures in a column; the column is held in memory, shared by forked workers.

    Parquet has no access by row: larger collections belong into `.tar` shards.
    """

    def __init__(self, file: Path, column: str, labels: list[str | None] | None) -> None:
        self._file = file
        self._column = column
        self._images = self._load()
        super().__init__(str(file), PackedNames(f"row {i}" for i in range(len(self._images))))
        if not len(self):
            raise UserError(f"'{file}' has no rows")
        self.classes, self.labels = encode_labels(labels)

    def read(self, i: int) -> bytes:
        data = self._images[i].as_py()
        if not data:
            raise BrokenImage("the cell is empty")
        return data

    def _load(self) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        column = _parquet().read_table(self._file, columns=[self._column])[self._column]
        return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._images = self._load()


def open_parquet(file: Path) -> ListSource | ParquetImages:
    """A column `path`, or one of encoded pictures (binary, or a struct with `bytes`); `label` or
    none."""
    parquet = _parquet()
    import pyarrow as pa

    try:
        schema = parquet.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"'{file}' is no Parquet file: {error}") from error
    labels = None
    if LABEL_COLUMN in schema.names:
        column = parquet.read_table(file, columns=[LABEL_COLUMN])[LABEL_COLUMN].to_pylist()
        labels = [None if value is None else str(value) for value in column]
    if PATH_COLUMN in schema.names:
        paths = parquet.read_table(file, columns=[PATH_COLUMN])[PATH_COLUMN].to_pylist()
        for number, path in enumerate(paths):
            if not isinstance(path, str) or not path:
                raise UserError(f"'{file}' row {number} has no path but {path!r}")
        return ListSource(
            file, zip(paths, labels or [None] * len(paths), strict=True), f"'{file}' row 0"
        )
    for field in schema:
        if _holds_bytes(field.type):
            return ParquetImages(file, field.name, labels)
    raise UserError(
        f"'{file}' has neither a column '{PATH_COLUMN}'{_near(schema.names)} nor one of encoded "
        f"pictures; its columns are {', '.join(schema.names)}"
    )


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return types.is_binary(kind) or types.is_large_binary(kind)


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "a .parquet list needs the extra 'parquet': pip install 'vistill[parquet]'"
        ) from error
    return pyarrow.parquet


def _near(columns: list[str]) -> str:
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
