"""A folder of embeddings: which files they are of, and what they were made with.

`index.json` names two more files and is written last, so that a killed writer leaves the index that
was there: `embeddings-*.npy`, float32 `[n, D]` of length 1, which is mapped into memory, and
`entries-*.npz` with what each row is of.
"""

import json
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.lib.format import open_memmap

from vistill.data.names import PackedNames
from vistill.data.source import Stretch
from vistill.errors import UserError
from vistill.files import PARTIAL, atomic_writer, near_path, remove_partial, write_atomic

TOLD = "index.json"
_FORMAT = 1
_SLICE = 8192
_FILES = ("embeddings-*.npy", "entries-*.npz", "graph-*.usearch")


@dataclass(frozen=True)
class MadeWith:
    """What has to agree, for two embeddings to be comparable.

    Attributes:
        weights: hash of the model's.
        inputs: size, normalisation, clips, pooling: whatever else makes the numbers.
    """

    weights: str
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Told:
    """What `index.json` says.

    Attributes:
        model: the reference of the model.
        made_with: its fingerprint.
        data: absolute path of what was indexed.
        root: where the relative paths of its lists start, or None.
        media: `picture` or `clip`.
        base: folder at which the names of the files start; None: they lie in archives.
        window: seconds of a span of a video, and from one to the next; None: files are whole.
        text: whether sentences can be compared with it.
    """

    model: str
    made_with: MadeWith
    data: str
    root: str | None
    media: Literal["picture", "clip"]
    base: str | None
    window: tuple[float, float] | None
    text: bool


@dataclass(frozen=True)
class Entries:
    """What the rows are of.

    Attributes:
        files: name of the file, as the source tells it, per row.
        spans: start and end of the part of it; NaN where it is all of it.
        in_frames: whether these are numbers of frames instead of seconds.
        stamps: of the file, see `vistill.data.stamps`.
    """

    files: PackedNames
    spans: Float[np.ndarray, "n 2"]
    in_frames: Bool[np.ndarray, " n"]
    stamps: Int[np.ndarray, "n 2"]

    def __len__(self) -> int:
        return len(self.files)

    def span(self, row: int) -> Stretch | None:
        """The part of the file; None: all of it."""
        start, end = self.spans[row].tolist()
        if np.isnan(start):
            return None
        return Stretch(start, end, "frames" if self.in_frames[row] else "s")


class EntriesList:
    """Entries that are added one by one."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self._spans: list[tuple[float, float]] = []
        self._in_frames: list[bool] = []
        self._stamps: list[tuple[int, int]] = []

    def add(self, file: str, span: Stretch | None, stamp: tuple[int, int]) -> None:
        """One row."""
        self.files.append(file)
        self._spans.append((np.nan, np.nan) if span is None else (span.start, span.end))
        self._in_frames.append(span is not None and span.unit == "frames")
        self._stamps.append(stamp)

    def packed(self) -> Entries:
        """All of them."""
        return Entries(
            PackedNames(self.files),
            np.array(self._spans, np.float64).reshape(-1, 2),
            np.array(self._in_frames, bool),
            np.array(self._stamps, np.int64).reshape(-1, 2),
        )


@dataclass(frozen=True)
class Index:
    """An index that is open.

    Attributes:
        folder: where it lies.
        told: what it was made of and with.
        embeddings: a memory map.
        entries: what its rows are of.
        generation: a word that changes whenever the rows do.
    """

    folder: Path
    told: Told
    embeddings: Float[np.ndarray, "n d"]
    entries: Entries
    generation: str


def read_index(folder: Path) -> Index:
    """Open the index in a folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    file = folder / TOLD
    if not file.is_file():
        if folder.is_dir():
            raise UserError(f"{folder} holds no index; make one with vistill index")
        raise UserError(f"there is no index {folder}{near_path(folder)}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        version = content.pop("format")
        if version != _FORMAT:
            raise UserError(
                f"{folder} is an index of format {version}, and this version reads {_FORMAT}; "
                "make it anew in another folder"
            )
        generation, shape = content.pop("generation"), tuple(content.pop("shape"))
        if content["window"] is not None:
            content["window"] = tuple(content["window"])
        told = Told(**content | {"made_with": MadeWith(**content["made_with"])})
        embeddings = np.load(folder / f"embeddings-{generation}.npy", mmap_mode="r")
        if embeddings.shape != shape or embeddings.dtype != np.float32 or len(shape) != 2:
            raise ValueError(f"embeddings are {embeddings.dtype} {list(embeddings.shape)}")
        with np.load(folder / f"entries-{generation}.npz", allow_pickle=False) as arrays:
            files = PackedNames.of(arrays["text"], arrays["ends"])
            entries = Entries(files, arrays["spans"], arrays["in_frames"], arrays["stamps"])
        lengths = {len(files), *map(len, (entries.spans, entries.in_frames, entries.stamps))}
        if lengths != {shape[0]}:
            raise ValueError("rows and entries are not as many")
    # Damaged bytes end in nearly any of these.
    except (OSError, ValueError, TypeError, KeyError, AttributeError, EOFError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error) or "cut short"
        raise UserError(
            f"the index {folder} is damaged ({what}); delete the folder and make it anew"
        ) from error
    except Exception as error:
        if type(error).__module__ not in ("zipfile", "zlib"):
            raise
        raise UserError(
            f"the index {folder} is damaged ({error}); delete the folder and make it anew"
        ) from error
    return Index(folder, told, embeddings, entries, generation)


def write_index(
    folder: Path, told: Told, entries: Entries, rows: Iterator[np.ndarray], width: int
) -> None:
    """Replace the index of a folder, of which readers see the old one or the new one.

    Args:
        folder: is there, and locked.
        told: what it is made of and with.
        entries: of all rows.
        rows: embeddings in their order, some at a time; they are brought to length 1.
        width: numbers of an embedding.

    Raises:
        UserError: an embedding is not finite.
    """
    remove_partial(folder)
    generation, done = secrets.token_hex(4), 0
    made = folder / f"{PARTIAL}{generation}-embeddings.npy"
    array = open_memmap(made, "w+", np.float32, (len(entries), width))
    for block in rows:
        lengths = np.linalg.norm(block, axis=1, keepdims=True)
        if not np.isfinite(lengths).all():
            worst = done + int(np.flatnonzero(~np.isfinite(lengths[:, 0]))[0])
            del array
            made.unlink()
            raise UserError(
                f"{told.model} makes no finite embedding of {entries.files[worst]}, so nothing "
                f"was written to {folder}"
            )
        array[done : done + len(block)] = block / np.maximum(lengths, 1e-12)
        done += len(block)
    assert done == len(entries)
    array.flush()
    del array
    made.rename(folder / f"embeddings-{generation}.npy")
    text, ends = entries.files.arrays
    with atomic_writer(folder / f"entries-{generation}.npz") as file:
        np.savez(
            file,
            text=text,
            ends=ends,
            spans=entries.spans,
            in_frames=entries.in_frames,
            stamps=entries.stamps,
        )
    content = {"format": _FORMAT, "generation": generation, "shape": [len(entries), width]}
    write_atomic(folder / TOLD, json.dumps(content | asdict(told), indent=2) + "\n")
    for old in (p for kind in _FILES for p in folder.glob(kind)):
        if generation not in old.name:
            old.unlink()


def rows_of(
    before: Index | None, kept: Int[np.ndarray, " n"], new: Any, fresh: Int[np.ndarray, " n"]
) -> Iterator[np.ndarray]:
    """Rows of an index from those of the one before and new ones.

    Args:
        before: the one before, if any.
        kept: per row its position there, or -1.
        new: `[k, D]`.
        fresh: per row its position in `new`, where it is not kept.
    """
    for start in range(0, len(kept), _SLICE):
        old, made = kept[start : start + _SLICE], fresh[start : start + _SLICE]
        width = new.shape[1] if before is None else before.embeddings.shape[1]
        block = np.empty((len(old), width), np.float32)
        if before is not None:
            block[old >= 0] = before.embeddings[old[old >= 0]]
        block[old < 0] = new[made[old < 0]]
        yield block
