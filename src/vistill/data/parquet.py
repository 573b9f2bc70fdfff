"""Parquet files of paths, of encoded pictures, or the index that `vistill prepare` writes."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from vistill.data.archive import ShardSource
from vistill.data.broken import LOG, BrokenImage
from vistill.data.listing import (
    LABEL_COLUMN,
    PATH_COLUMN,
    SPAN_COLUMNS,
    ListSource,
    Row,
    near_column,
)
from vistill.data.source import PICTURES, Media, NamedSource, PackedNames, encode_labels
from vistill.data.stamps import Stamps
from vistill.errors import UserError

PROBLEM_COLUMN = "problem"
SHARD_COLUMNS = ("shard", "offset", "size")
PROOF_COLUMN = "proof"


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

    def stamps(self) -> Stamps:
        """Checksums, of what is in memory anyhow."""
        sums = [zlib.crc32(self._images[i].as_py() or b"") for i in range(len(self))]
        return np.array([sums, [0] * len(sums)], dtype=np.int64).T

    def _load(self) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        column = require_parquet().read_table(self._file, columns=[self._column])[self._column]
        return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._images = self._load()


def open_parquet(file: Path, media: Media = PICTURES) -> NamedSource:
    """A column `path`, or one of encoded pictures (binary, or a struct with `bytes`); `label` or
    none.

    Rows with a text in `problem` are left out. Columns `shard`, `offset` and `size` place a sample
    in a `.tar` file, `start` and `end` are seconds.
    """
    parquet = require_parquet()
    import pyarrow as pa

    try:
        schema = parquet.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"'{file}' is no Parquet file: {error}") from error
    if PATH_COLUMN in schema.names:
        return _paths(file, set(schema.names), media)
    for field in schema:
        if media is PICTURES and _holds_bytes(field.type):
            labels = None
            if LABEL_COLUMN in schema.names:
                column = parquet.read_table(file, columns=[LABEL_COLUMN])[LABEL_COLUMN]
                labels = [None if value is None else str(value) for value in column.to_pylist()]
            return ParquetImages(file, field.name, labels)
    encoded = " nor one of encoded pictures" if media is PICTURES else ""
    raise UserError(
        f"'{file}' has {'neither' if encoded else 'not'} a column '{PATH_COLUMN}'"
        f"{near_column(schema.names)}{encoded}; its columns are {', '.join(schema.names)}"
    )


def _paths(file: Path, names: set[str], media: Media) -> NamedSource:
    wanted = [PATH_COLUMN, LABEL_COLUMN, PROBLEM_COLUMN, *SPAN_COLUMNS, *SHARD_COLUMNS]
    wanted.append(PROOF_COLUMN)
    table = require_parquet().read_table(file, columns=[name for name in wanted if name in names])
    for number, path in enumerate(table[PATH_COLUMN].to_pylist()):
        if not isinstance(path, str) or not path:
            raise UserError(f"'{file}' row {number} has no path but {path!r}")
    first = 0
    if PROBLEM_COLUMN in names:
        fine = [not problem for problem in table[PROBLEM_COLUMN].to_pylist()]
        first = fine.index(True) if any(fine) else 0
        if not all(fine):
            text = "%s: %d of %d rows have a problem and are left out"
            LOG.warning(text, file, fine.count(False), len(fine))
        table = table.filter(fine)
    proofs = table[PROOF_COLUMN] if PROOF_COLUMN in names else None
    columns = {name: table[name].to_pylist() for name in table.column_names if name != PROOF_COLUMN}
    paths, none = columns[PATH_COLUMN], [None] * len(table)
    labels = [None if x is None else str(x) for x in columns.get(LABEL_COLUMN, none)]
    if any(columns.get("shard", ())):
        source: NamedSource = _in_shards(file, columns, labels, media)
        source.proofs = proofs
        return source
    starts, ends = (columns.get(name, none) for name in SPAN_COLUMNS)
    rows = (
        Row(path, label, None if start is None else (start, end))
        for path, label, start, end in zip(paths, labels, starts, ends, strict=True)
    )
    source = ListSource(file, rows, f"'{file}' row {first}", media)
    source.proofs = proofs
    return source


def _in_shards(
    file: Path, columns: dict[str, list[Any]], labels: list[str | None], media: Media
) -> ShardSource:
    """Samples inside `.tar` files beside the list, by byte offset."""
    shards = sorted(set(columns["shard"]))
    files = [file.parent / shard for shard in shards]
    for shard in files:
        if not shard.is_file():
            raise UserError(f"'{file}' names the shard '{shard}', which does not exist")
    places = np.stack([[shards.index(shard) for shard in columns["shard"]], columns["offset"],
                       columns["size"]], axis=1)  # fmt: skip
    names = (f"{s}/{path}" for s, path in zip(columns["shard"], columns["path"], strict=True))
    source = ShardSource(str(file), files, PackedNames(names), places.astype(np.int64), media)
    source.classes, source.labels = encode_labels(labels)
    return source


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return types.is_binary(kind) or types.is_large_binary(kind)


def require_parquet() -> Any:
    """pyarrow's Parquet module.

    Raises:
        UserError: the extra is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "a .parquet file needs the extra 'parquet': pip install 'vistill[parquet]'"
        ) from error
    return pyarrow.parquet
