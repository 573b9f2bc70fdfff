"""Parquet files of paths, of encoded pictures, or the index that `vistill prepare` writes."""

import os
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vistill.data.archive import ShardSource
from vistill.data.broken import BrokenImage
from vistill.data.captions import Captions
from vistill.data.columns import (
    CAPTION_COLUMN,
    CAPTIONED,
    FRAME_COLUMNS,
    LABEL_COLUMN,
    PATH_COLUMN,
    PROBLEM_COLUMN,
    PROOF_COLUMN,
    SHARD_COLUMNS,
    SPAN_COLUMNS,
    SPLIT_COLUMN,
    caption_texts,
    check_columns,
    known_names,
    label_text,
    near_path,
    read_row,
    unclassed_notes,
)
from vistill.data.listing import Listed, ListSource
from vistill.data.names import Coded, PackedNames
from vistill.data.source import PICTURES, Media, NamedSource, encode_labels
from vistill.data.stamps import Stamps
from vistill.errors import UserError

_READ = (PATH_COLUMN, LABEL_COLUMN, PROBLEM_COLUMN, SPLIT_COLUMN, *SPAN_COLUMNS, *FRAME_COLUMNS,
         *SHARD_COLUMNS, PROOF_COLUMN, *CAPTIONED)  # fmt: skip


class ParquetImages(NamedSource):
    """Encoded pictures in a column; the column is held in memory, shared by forked workers.

    Parquet has no access by row: larger collections belong into `.tar` shards.
    """

    def __init__(self, name: str, columns: Sequence[tuple[Path, str]]) -> None:
        self._columns = columns
        self._images = self._load()
        super().__init__(name, PackedNames(_row_names([file for file, _ in columns])))
        if not len(self):
            raise UserError(f"'{name}' has no rows")

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

        chunks = []
        for file, name in self._columns:
            column = require_parquet().read_table(file, columns=[name])[name]
            nested = pa.types.is_struct(column.type)
            chunks += [*(pc.struct_field(column, "bytes") if nested else column).chunks]
        return pa.chunked_array(
            [chunk.cast(pa.large_binary()) for chunk in chunks], pa.large_binary()
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._images = self._load()


def open_parquet(
    name: str,
    files: Sequence[Path],
    media: Media = PICTURES,
    root: str | os.PathLike[str] | None = None,
) -> NamedSource:
    """A column `path`, or one of encoded pictures (binary, or a struct with `bytes`); `label` or
    none.

    Rows with a text in `problem` are left out. Columns `shard`, `offset` and `size` place a sample
    in a `.tar` file; `start` and `end` are seconds, `start_frame` and `end_frame` frames.

    Args:
        name: of all files together.
        files: of the same kind, read one after the other.
        media: what the samples are.
        root: where relative paths start; None: at each file's own folder.

    Raises:
        UserError: one of them cannot be read, or holds no samples.
    """
    parquet = require_parquet()
    import pyarrow as pa

    notes: list[str] = []
    of_paths: list[Path] = []
    of_bytes: list[tuple[Path, str]] = []
    for file in files:
        try:
            schema = parquet.read_schema(file)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"'{file}' is no Parquet file: {error}") from error
        encoded = {field.name for field in schema if _holds_bytes(field.type)}
        if PATH_COLUMN in known_names([n for n in schema.names if n not in encoded]):
            of_paths.append(file)
        else:
            of_bytes.append((file, _encoded(file, schema, media)))
        of_the_index = (PROBLEM_COLUMN, SPLIT_COLUMN, *SHARD_COLUMNS, PROOF_COLUMN)
        others = [name for name in schema.names
                  if (file, name) not in of_bytes and name not in of_the_index]  # fmt: skip
        notes += check_columns(f"'{file}'", known_names(others), media)
    if of_paths and of_bytes:
        raise UserError(f"'{of_paths[0]}' names files, and '{of_bytes[0][0]}' holds pictures")
    if of_bytes and root is not None:
        raise UserError(f"'{name}' names no files, so there are no paths to start at {root}")
    source = _pictures(name, of_bytes) if of_bytes else _paths(name, of_paths, media, root)
    source.notes = [*dict.fromkeys(notes), *source.notes]
    return source


def _encoded(file: Path, schema: Any, media: Media) -> str:
    """The column of encoded pictures."""
    for field in schema:
        if media is PICTURES and _holds_bytes(field.type):
            return field.name
    encoded = " nor one of encoded pictures" if media is PICTURES else ""
    raise UserError(
        f"'{file}' has {'neither' if encoded else 'not'} a column '{PATH_COLUMN}'"
        f"{near_path(schema.names)}{encoded}; its columns are {', '.join(schema.names)}"
    )


def _pictures(name: str, columns: Sequence[tuple[Path, str]]) -> NamedSource:
    source = ParquetImages(name, columns)
    labels = Coded()
    captions: list[tuple[str, ...]] = []
    for file, _ in columns:
        table = _read(file, [LABEL_COLUMN, CAPTION_COLUMN, "captions"])
        table = table.rename_columns(known_names(table.column_names))
        nothing = [None] * table.num_rows
        label, caption = (
            table[name].to_pylist() if name in table.column_names else nothing
            for name in (LABEL_COLUMN, CAPTION_COLUMN)
        )
        for number in range(table.num_rows):
            where = f"'{file}' row {number}"
            labels.add(label_text(where, label[number]))
            captions.append(caption_texts(where, caption[number]))
    source.classes, source.labels = encode_labels(labels)
    source.captions = Captions(captions) if any(captions) else None
    if any(labels.texts):
        source.notes = unclassed_notes(labels, PICTURES)
    return source


class _File(NamedTuple):
    """What is read of a file of paths: cells by column, and the rows without a problem."""

    path: Path
    columns: dict[str, list[Any]]
    kept: list[int]
    proofs: Any

    @classmethod
    def read(cls, path: Path) -> "_File":
        table = _read(path, _READ)
        table = table.rename_columns(known_names(table.column_names))
        columns = {name: table[name].to_pylist() for name in table.column_names
                   if name != PROOF_COLUMN}  # fmt: skip
        problems = columns.get(PROBLEM_COLUMN, [None] * table.num_rows)
        kept = [number for number, problem in enumerate(problems) if not problem]
        proofs = table[PROOF_COLUMN].take(kept) if PROOF_COLUMN in table.column_names else None
        return cls(path, columns, kept, proofs)

    def where(self, number: int) -> str:
        return f"'{self.path}' row {number}"

    def listed(self, media: Media) -> Listed:
        columns = [name for name in (PATH_COLUMN, LABEL_COLUMN, CAPTION_COLUMN, *SPAN_COLUMNS,
                                     *FRAME_COLUMNS) if name in self.columns]  # fmt: skip
        rows = (
            read_row(self.where(n), {name: self.columns[name][n] for name in columns}, media)
            for n in self.kept
        )
        first = self.where(self.kept[0] if self.kept else 0)
        return Listed(self.path, rows, first, LABEL_COLUMN in columns, [])


def _paths(
    name: str, files: Sequence[Path], media: Media, root: str | os.PathLike[str] | None
) -> NamedSource:
    parts = [_File.read(file) for file in files]
    total = sum(len(part.columns[PATH_COLUMN]) for part in parts)
    left = sum(len(part.kept) for part in parts)
    if total and not left:
        raise UserError(f"all {total} rows of '{name}' have a problem (column '{PROBLEM_COLUMN}')")
    sharded = [part for part in parts if any(part.columns.get(SHARD_COLUMNS[0], ()))]
    if 0 < len(sharded) < len(parts):
        raise UserError(f"some files of '{name}' name videos, and some shards; give one kind")
    source: NamedSource
    if sharded:
        source = _in_shards(name, sharded, media)
    else:
        source = ListSource(name, [part.listed(media) for part in parts], media, root)
    source.proofs = _joined([(part.proofs, len(part.kept)) for part in parts])
    if left < total:
        source.notes.append(f"{total - left} of {total} rows have a problem and are left out")
    splits = Counter(
        str(part.columns[SPLIT_COLUMN][number])
        for part in parts
        for number in (part.kept if SPLIT_COLUMN in part.columns else ())
    )
    if len(splits) > 1:
        told = ", ".join(f"{count} {split}" for split, count in splits.most_common())
        source.notes.append(f"all of its splits are used: {told}")
    return source


def _in_shards(name: str, parts: Sequence[_File], media: Media) -> ShardSource:
    """Samples inside `.tar` files, by byte offset; relative paths of shards start at the list."""
    shards: dict[Path, int] = {}
    names: list[str] = []
    labels = Coded()
    places = array("q")
    for part in parts:
        columns = part.columns
        for number in part.kept:
            shard = part.path.parent / columns["shard"][number]
            if shard not in shards and not shard.is_file():
                raise UserError(f"{part.where(number)} names the shard '{shard}', which is no file")
            shown = columns["shard"][number]
            shown = shard.name if os.path.isabs(shown) else shown
            names.append(f"{shown}/{columns[PATH_COLUMN][number]}")
            file = shards.setdefault(shard, len(shards))
            places.extend((file, columns["offset"][number], columns["size"][number]))
            label = columns[LABEL_COLUMN][number] if LABEL_COLUMN in columns else None
            labels.add(label_text(part.where(number), label))
    table = np.frombuffer(places, dtype=np.int64).reshape(-1, 3)
    source = ShardSource(name, list(shards), PackedNames(names), table, media)
    source.classes, source.labels = encode_labels(labels)
    if any(labels.texts):
        source.notes = unclassed_notes(labels, media)
    return source


def _joined(proofs: Sequence[tuple[Any, int]]) -> Any:
    """The proofs of all files, in each of which there may be none; None where no file has any."""
    import pyarrow as pa

    kind = next((column.type for column, _ in proofs if column is not None), None)
    if kind is None:
        return None
    chunks = [
        chunk
        for column, rows in proofs
        for chunk in ([pa.nulls(rows, kind)] if column is None else column.cast(kind).chunks)
    ]
    return pa.chunked_array(chunks, kind)


def _read(file: Path, wanted: Sequence[str]) -> Any:
    """Those of the wanted columns that a file has, in small memory."""
    parquet = require_parquet()
    names = parquet.read_schema(file).names
    return parquet.read_table(file, columns=[name for name in wanted if name in names])


def _row_names(files: Sequence[Path]) -> Iterator[str]:
    for file in files:
        named = "" if len(files) == 1 else f"{file.name} "
        rows = require_parquet().read_metadata(file).num_rows
        yield from (f"{named}row {number}" for number in range(rows))


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
